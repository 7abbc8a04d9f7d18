"use strict";

// The graph as SVG: one pane per emotion shown. Nodes are built when what is compared changes;
// thresholds and selections only hide, show and mark them.
const Draw = (() => {
  const { s } = Dom;
  const FONT = "system-ui, sans-serif";
  let panes = [];
  let laid = null;
  let size = "";

  const root = () => Dom.get("graph");
  const text = (content, x, y, attributes = {}) =>
    s("text", { x, y, "text-anchor": "middle", "font-family": FONT, ...attributes }, content);

  const describe = (place, emotion) => {
    const { id, kind } = Data.nodes[place];
    const value = Data.value(place, State.state.measure, emotion);
    const effect = value === null ? "" : `, effect ${Dom.number(value)}`;
    const shared = State.state.other === null || !Data.isPart(place) ? "" : State.isShared(place) ? ", in both circuits" : ", in this circuit only";
    return `${id}, ${Data.kindWords[kind]}${effect} for ${Data.emotions[emotion].name}${shared}`;
  };

  const label = (place) => {
    const { id, kind, index } = Data.nodes[place];
    if (kind === "head") return `H${index}`;
    return kind === "embed" || kind === "readout" ? id : null;
  };

  const node = (place, emotion, colours) => {
    const { kind } = Data.nodes[place];
    const { measure, other } = State.state;
    const r = Marks.radius(kind, Data.strength(place, measure, emotion));
    const [x, y] = laid.at.get(place);
    const ring = other !== null && Data.isPart(place) && State.isShared(place);
    return s(
      "g",
      { class: "node", role: "button", tabindex: -1, "data-node": place, "aria-label": describe(place, emotion), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` },
      ring ? s("path", { d: Marks.shape(kind, r + 3), fill: "none", stroke: colours.ink, "stroke-width": 1.2 }) : null,
      s("path", { d: Marks.shape(kind, r), ...Marks.look(place, emotion, measure, colours) }),
      label(place) ? text(label(place), 0, r + 1, { dy: "1em", fill: colours.soft }) : null,
    );
  };

  const bands = (colours) => {
    const { x, y, width, height } = laid.box;
    const stream = laid.across ? { x1: 32, x2: laid.length - 32, y1: 0, y2: 0 } : { x1: 0, x2: 0, y1: 32, y2: laid.length - 32 };
    return [...laid.bands.flatMap(({ layer, from, to }, number) => {
      const [w, tall] = [to - from, laid.across ? height + 58 : width + 66];
      const place = laid.across ? { x: from, y: y - 38, width: w, height: tall } : { x: x - 44, y: from, width: tall, height: w };
      const at = laid.across ? [from + w / 2, y - 24] : [x - 32, from + 14];
      return [
        number % 2 ? null : s("rect", { ...place, fill: colours.band }),
        text(`L${layer}`, at[0], at[1], { fill: colours.soft, "font-weight": 600 }),
      ];
    }), s("line", { ...stream, stroke: colours.line, "stroke-width": 2 })];
  };

  const pane = (emotion, number, frame, colours) => {
    const { name, colour } = Data.emotions[emotion];
    const clip = s("svg", { class: "pane", ...frame, overflow: "hidden", role: "group", "aria-label": `Circuit of ${name}` });
    const layers = Object.fromEntries(["bands", "edges", "lit", "nodes", "over"].map((own) => [own, s("g", { class: own })]));
    const world = s("g", { class: "world" }, ...Object.values(layers));
    layers.bands.append(...bands(colours).filter(Boolean));
    const nodes = new Map(Data.circuits[emotion].nodes.map((place) => [place, node(place, emotion, colours)]));
    layers.nodes.append(...nodes.values());
    const heading = s("g", {}, s("rect", { x: 10, y: 11, width: 11, height: 11, rx: 2, fill: colour }),
      text(name, 27, 21, { "text-anchor": "start", "font-size": 13, "font-weight": 600, fill: colours.ink }));
    const edge = number && frame.x ? { x1: 0.5, x2: 0.5, y1: 0, y2: frame.height } : number ? { x1: 0, x2: frame.width, y1: 0.5, y2: 0.5 } : null;
    clip.append(world, heading);
    if (edge) clip.append(s("line", { ...edge, stroke: colours.line }));
    return { emotion, frame, clip, world, ...layers, nodes: nodes, group: layers.nodes, drawn: new Set(), edgeList: [] };
  };

  const frames = (count, width, height) => {
    if (count === 1) return [{ x: 0, y: 0, width, height }];
    return width > 620
      ? [0, 1].map((n) => ({ x: (n * width) / 2, y: 0, width: width / 2, height }))
      : [0, 1].map((n) => ({ x: 0, y: (n * height) / 2, width, height: height / 2 }));
  };

  const build = () => {
    const svg = root();
    const { clientWidth: width, clientHeight: height } = Dom.get("stage");
    size = `${width} ${height}`;
    const emotions = State.shownEmotions();
    const places = [...new Set(emotions.flatMap((emotion) => Data.circuits[emotion].nodes))];
    const colours = Theme.palette();
    const room = frames(emotions.length, width, height);
    laid = Layout.arrange(places, emotions, State.state.measure, room[0]);
    for (const [name, own] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) svg.setAttribute(name, own);
    panes = emotions.map((emotion, number) => pane(emotion, number, room[number], colours));
    svg.replaceChildren(s("rect", { width, height, fill: colours.paper }), ...panes.map((own) => own.clip));
    update();
  };

  const ring = (place, emotion, attributes) => {
    const { kind } = Data.nodes[place];
    const r = Marks.radius(kind, Data.strength(place, State.state.measure, emotion));
    const [x, y] = laid.at.get(place);
    return s("path", { d: Marks.shape(kind, r + 5), fill: "none", "stroke-width": 2.5, transform: `translate(${x} ${y})`, ...attributes });
  };

  const named = (place, emotion, colours) => {
    const r = Marks.radius(Data.nodes[place].kind, Data.strength(place, State.state.measure, emotion));
    const [x, y] = laid.at.get(place);
    // A head has its name below; under a neuron stands the next one.
    const below = label(place) !== null;
    return text(Data.nodes[place].id, x, below ? y + r + 4 : y - r - 8, {
      dy: below ? "0.9em" : null, fill: colours.ink, "font-weight": 700, stroke: colours.paper, "stroke-width": 3, "paint-order": "stroke",
    });
  };

  const mark = (own, colours) => {
    const { selected, found } = State.state;
    const marks = [];
    if (found) {
      for (const place of found) {
        if (own.drawn.has(place)) marks.push(ring(place, own.emotion, { stroke: colours.accent, "stroke-width": 1.6 }));
        if (marks.length > 400) break;
      }
    }
    if (own.drawn.has(selected)) {
      marks.push(ring(selected, own.emotion, { stroke: colours.accent }), named(selected, own.emotion, colours));
    }
    own.over.replaceChildren(...marks);
  };

  const edges = (own, colours) => {
    const { selected } = State.state;
    const near = own.edgeList.filter(({ source, target }) => source === selected || target === selected);
    const paths = (list, extra) => Marks.edgeGroups(list, own.emotion, laid.at, laid.across).map((group) =>
      s("path", { d: group.d.join(""), class: `edge ${group.kind}`, ...Marks.edgeLook(group, colours), ...extra }));
    own.edges.replaceChildren(...paths(own.edgeList, {}));
    own.edges.setAttribute("opacity", near.length ? 0.35 : 1);
    own.lit.replaceChildren(...paths(near, { "stroke-opacity": 1 }));
  };

  // The node that the Tab key reaches: the selected one, or else the first.
  const rove = (own) => {
    const chosen = own.drawn.has(State.state.selected) ? State.state.selected : [...own.drawn][0];
    for (const [place, element] of own.nodes) element.setAttribute("tabindex", place === chosen ? 0 : -1);
  };

  const update = () => {
    const colours = Theme.palette();
    for (const own of panes) {
      own.drawn = State.nodesOf(own.emotion);
      own.edgeList = State.edgesOf(own.emotion, own.drawn);
      for (const [place, element] of own.nodes) element.style.display = own.drawn.has(place) ? "" : "none";
      edges(own, colours);
      mark(own, colours);
      rove(own);
    }
    const parts = panes.map((own) => [...own.drawn].filter(Data.isPart).length);
    const all = panes.map(({ emotion }) => Data.circuits[emotion].parts);
    Dom.get("empty").hidden = parts.some((count) => count > 0);
    const { selected } = State.state;
    const chosen = selected === null ? [] : [`${Data.nodes[selected].id} selected`];
    Dom.get("said").textContent = [...panes.map(({ emotion, edgeList }, n) =>
      `${Data.emotions[emotion].name}: ${parts[n].toLocaleString("en")} of ${Dom.plural(all[n], "part")}, ${Dom.plural(edgeList.length, "edge")}`), ...chosen].join(" · ");
  };

  const paneOf = (element) => panes.find(({ clip }) => clip.contains(element));

  return { build, update, paneOf, describe, named, root, panes: () => panes, layout: () => laid, size: () => size };
})();
