"use strict";

// What shapes, sizes, lines and colours mean, for what is shown now.
const Legend = (() => {
  const { h, s } = Dom;

  const mark = (kind, attributes) => s("svg", { width: 18, height: 18, viewBox: "-9 -9 18 18", "aria-hidden": "true" },
    s("path", { d: Marks.shape(kind, 6), ...attributes }));

  const stroke = (attributes) => s("svg", { width: 26, height: 12, viewBox: "0 0 26 12", "aria-hidden": "true" },
    s("line", { x1: 1, x2: 25, y1: 6, y2: 6, "stroke-width": 2.2, ...attributes }));

  const entry = (drawing, words) => h("li", {}, drawing, words);

  const show = () => {
    const colours = Theme.palette();
    const { kinds, other } = State.state;
    const own = Data.emotions[State.state.emotion].colour;
    const filled = { fill: own, stroke: Theme.outline(own) };
    const lines = [];
    const unmeasured = Draw.panes().some(({ emotion, drawn }) =>
      [...drawn].some((place) => Data.isPart(place) && !Data.value(place, State.state.measure, emotion)));
    const signed = ["path", "part", "direct"].filter((kind) => kinds[kind]);
    if (signed.length) {
      lines.push(entry(stroke({ stroke: Data.signs.towards }), "edge towards the emotion"),
        entry(stroke({ stroke: Data.signs.away, "stroke-dasharray": "4 3" }), "edge away from it"));
    }
    if (Data.withPaths && kinds.path) lines.push(entry(stroke({ stroke: Data.signs.towards, "stroke-opacity": 0.35 }), "path not shown to be causal"));
    Dom.get("legend").replaceChildren(
      entry(mark("head", filled), "head"),
      entry(mark("neuron", filled), "neuron"),
      entry(mark("sublayer", { fill: colours.soft }), "sublayer"),
      entry(mark("head", { fill: colours.paper, stroke: Theme.outline(own), "stroke-width": 2 }), "open: away from the emotion"),
      ...(unmeasured ? [entry(mark("neuron", { fill: colours.panel, stroke: colours.soft, "stroke-width": 1.5 }), "grey: not measured")] : []),
      ...(other === null ? [] : [entry(s("svg", { width: 20, height: 20, viewBox: "-10 -10 20 20", "aria-hidden": "true" },
        s("path", { d: Marks.shape("head", 5.5), ...filled }), s("path", { d: Marks.shape("head", 8.5), fill: "none", stroke: colours.ink, "stroke-width": 1.2 })), "ringed: in both circuits")]),
      ...lines,
      h("li", {}, "size: share of the largest effect of its kind"));
  };

  return { show };
})();
