"use strict";

// The controls above the graph: they change the state, and show it.
const Controls = (() => {
  const { h } = Dom;

  const options = (select, entries, chosen) =>
    select.replaceChildren(...entries.map(([value, words]) => h("option", { value, selected: value === chosen }, words)));

  // Effects differ by orders of magnitude, so sliders are finer where they are small.
  const shareAt = (place) => (place / 100) ** 2;
  const atLeast = (share) => (share ? `≥ ${Dom.number(100 * share, share < 0.1 ? 2 : 3)} %` : "all");

  const fillEmotions = () => {
    const { emotion, other } = State.state;
    const names = Data.emotions.map(({ name }, place) => [String(place), name]);
    options(Dom.get("emotion"), names, String(emotion));
    options(Dom.get("other"), [["", "nothing"], ...names.filter(([place]) => place !== String(emotion))], other === null ? "" : String(other));
    Dom.get("shares").hidden = other === null;
  };

  const showValues = () => {
    const { nodeShare, edgeShare, most } = State.state;
    Dom.get("node-share-value").textContent = atLeast(nodeShare);
    Dom.get("edge-share-value").textContent = atLeast(edgeShare);
    Dom.get("measure").title = Data.measures.find(({ id }) => id === State.state.measure)?.meaning ?? "";
    Dom.get("most-value").textContent = most >= State.most ? "all" : most.toLocaleString("en");
  };

  // Small numbers of nodes are what is wanted most, so the slider is finer there.
  const manyAt = (place) => Math.max(1, Math.round(State.most ** (place / 100)));

  const slider = (id, change) => Dom.get(id).addEventListener("input", (event) => State.set(change(Number(event.target.value))));

  const edgeKinds = () => {
    const words = { path: "paths", part: "parts", direct: "direct", residual: "stream" };
    const there = new Set(Data.circuits.flatMap(({ edges }) => edges.map(({ kind }) => kind)));
    Dom.get("kinds").append(...Object.entries(words).filter(([kind]) => there.has(kind)).map(([kind, name]) =>
      h("label", { title: Data.edge_kinds[kind] }, h("input", {
        type: "checkbox", value: kind, checked: State.state.kinds[kind],
        onchange: (event) => State.set({ kinds: { ...State.state.kinds, [kind]: event.target.checked } }),
      }), name)));
  };

  const start = () => {
    // Where paths were measured they are what the edges are about.
    if (Data.withPaths === Data.circuits.length) State.state.kinds.part = false;
    fillEmotions();
    edgeKinds();
    options(Dom.get("measure"), Data.measures.filter(({ id }) => Data.nodes.some((node) => node.scores[id])).map(({ id, name }) => [id, name]), State.state.measure);
    Dom.get("emotion").addEventListener("change", (event) => {
      const emotion = Number(event.target.value);
      State.set({ emotion, other: State.state.other === emotion ? null : State.state.other });
    });
    Dom.get("other").addEventListener("change", (event) => State.set({ other: event.target.value === "" ? null : Number(event.target.value) }));
    Dom.get("measure").addEventListener("change", (event) => State.set({ measure: event.target.value }));
    for (const radio of document.querySelectorAll("#shares input")) radio.addEventListener("change", () => State.set({ show: radio.value }));
    slider("node-share", (value) => ({ nodeShare: shareAt(value) }));
    slider("edge-share", (value) => ({ edgeShare: shareAt(value) }));
    slider("most", (value) => ({ most: value >= 100 ? State.most : manyAt(value) }));
    Dom.get("reset").addEventListener("click", reset);
    const narrow = !window.matchMedia("(min-width: 60rem)").matches;
    if (narrow) Dom.get("filters").open = false;
    showValues();
  };

  const reset = () => {
    Dom.get("node-share").value = 0;
    Dom.get("edge-share").value = 0;
    Dom.get("most").value = 100;
    Dom.get("show-all").checked = true;
    State.set({ nodeShare: 0, edgeShare: 0, most: State.most, show: "all" });
    Camera.fit();
  };

  return { start, fillEmotions, showValues };
})();
