"use strict";

// The current view as a file: SVG, PNG, or JSON with the numbers behind it.
const Save = (() => {
  const fileName = (ending) =>
    `circuit-${State.shownEmotions().map((emotion) => Data.emotions[emotion].name.replace(/[^\w-]+/g, "_")).join("-")}.${ending}`;

  const download = (blob, name) => {
    const address = URL.createObjectURL(blob);
    const link = Dom.h("a", { href: address, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  };

  // What is hidden is left out, and so is what only the page needs.
  const picture = () => {
    const copy = Draw.root().cloneNode(true);
    for (const node of copy.querySelectorAll(".node")) {
      if (node.style.display === "none") node.remove();
      for (const name of ["tabindex", "role", "style"]) node.removeAttribute(name);
    }
    for (const name of ["id", "class", "role", "aria-label", "aria-describedby"]) copy.removeAttribute(name);
    copy.setAttribute("xmlns", Dom.SVG);
    copy.prepend(Dom.s("title", {}, Data.title), Dom.s("desc", {}, settingsText()));
    return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(copy)}`;
  };

  const settingsText = () => {
    const { measure, nodeShare, edgeShare, most } = State.state;
    return `Nodes by ${measure} effect from ${Dom.number(100 * nodeShare)} % of the largest, at most ${most}; edges from ${Dom.number(100 * edgeShare)} %.`;
  };

  const svg = () => download(new Blob([picture()], { type: "image/svg+xml" }), fileName("svg"));

  const png = async () => {
    const address = URL.createObjectURL(new Blob([picture()], { type: "image/svg+xml" }));
    const image = new Image();
    image.src = address;
    await image.decode();
    const { width, height } = Draw.root().viewBox.baseVal;
    const canvas = Dom.h("canvas", { width: Math.round(2 * width), height: Math.round(2 * height) });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    URL.revokeObjectURL(address);
    download(await new Promise((made) => canvas.toBlob(made, "image/png")), fileName("png"));
  };

  const nodeValues = (place, emotion) => ({
    ...Object.fromEntries(["id", "kind", "layer"].map((name) => [name, Data.nodes[place][name]])),
    ...Object.fromEntries(Data.measures.map(({ id }) => [id, Data.value(place, id, emotion)])),
    circuits: Data.members[place].map((own) => Data.emotions[own].name),
  });

  const values = () => {
    const { measure, nodeShare, edgeShare, most, show, kinds, selected } = State.state;
    return {
      format: "emotion-explorer-view/1",
      title: Data.title,
      model: Data.model,
      settings: { measure, node_threshold: nodeShare, edge_threshold: edgeShare, most_nodes: most, parts: show, edge_kinds: Object.keys(kinds).filter((kind) => kinds[kind]) },
      selected: selected === null ? null : Data.nodes[selected].id,
      circuits: Draw.panes().map(({ emotion, drawn, edgeList }) => ({
        emotion: Data.emotions[emotion].name,
        nodes: [...drawn].sort((a, b) => a - b).map((place) => nodeValues(place, emotion)),
        edges: edgeList.map(({ source, target, ...own }) => ({ source: Data.nodes[source].id, target: Data.nodes[target].id, ...own })),
      })),
    };
  };

  const json = () => download(new Blob([`${JSON.stringify(values(), null, 2)}\n`], { type: "application/json" }), fileName("json"));

  const start = () => {
    Dom.get("svg").addEventListener("click", svg);
    Dom.get("png").addEventListener("click", png);
    Dom.get("json").addEventListener("click", json);
  };

  return { start, values };
})();
