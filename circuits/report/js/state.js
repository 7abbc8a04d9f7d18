"use strict";

// What is being looked at, and which nodes and edges that leaves; listeners hear once per frame.
const State = (() => {
  const most = Math.max(...Data.circuits.map(({ parts }) => parts), 1);

  const state = {
    emotion: 0,
    other: null, // the emotion beside it, when two are compared
    show: "all", // or "shared", "own": which components of compared circuits
    measure: "effect",
    nodeShare: 0, // of the largest effect of its kind
    edgeShare: 0,
    most, // parts drawn per circuit
    kinds: { path: true, part: true, direct: false, residual: true },
    selected: null, // place of a node
    told: null, // emotion that the panel is about, of two that are compared
    found: null, // Set of places that a search found
    context: null, // of an attention pattern
  };

  const listeners = [];
  let changed = null;

  const tell = () => {
    const keys = changed;
    changed = null;
    for (const listener of listeners) listener(keys);
  };

  const set = (changes) => {
    const keys = Object.keys(changes).filter((key) => state[key] !== changes[key]);
    if (!keys.length) return;
    Object.assign(state, changes);
    if (changed === null) {
      changed = new Set();
      requestAnimationFrame(tell);
    }
    for (const key of keys) changed.add(key);
  };

  const listen = (listener) => listeners.push(listener);

  const shownEmotions = () => (state.other === null ? [state.emotion] : [state.emotion, state.other]);

  const isShared = (place) => shownEmotions().every((emotion) => Data.circuits[emotion].has.has(place));

  const passes = (place, emotion) => {
    if (Data.strength(place, state.measure, emotion) < state.nodeShare) return false;
    if (state.other === null || state.show === "all") return true;
    return isShared(place) === (state.show === "shared");
  };

  // Nodes of a circuit that are drawn; the selected one always is.
  const nodesOf = (emotion) => {
    const own = Data.circuits[emotion].nodes;
    const parts = own.filter((place) => Data.isPart(place) && passes(place, emotion));
    if (parts.length > state.most) {
      const size = new Map(parts.map((place) => [place, Data.strength(place, state.measure, emotion)]));
      parts.sort((a, b) => size.get(b) - size.get(a));
      parts.length = state.most;
    }
    const drawn = new Set(parts);
    for (const place of own) if (!Data.isPart(place) || place === state.selected) drawn.add(place);
    return drawn;
  };

  const edgesOf = (emotion, drawn) => {
    const { edges, largest } = Data.circuits[emotion];
    return edges.filter(({ source, target, kind, effect }) => {
      if (!state.kinds[kind] || !drawn.has(source) || !drawn.has(target)) return false;
      return kind === "residual" || Math.abs(effect ?? 0) >= state.edgeShare * largest[kind];
    });
  };

  return { state, most, set, listen, shownEmotions, isShared, nodesOf, edgesOf };
})();
