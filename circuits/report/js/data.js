"use strict";

// The document that the page was made with, indexed; nothing here changes after loading.
const Data = (() => {
  const raw = JSON.parse(Dom.get("data").textContent);
  const places = new Map(raw.nodes.map((node, place) => [node.id, place]));

  const edge = ([source, target, kind, weight = null, stderr = null, baseline = null, exact = null,
    exactError = null, causal = null, via = null]) =>
    // What was patched counts more than what was attributed.
    ({ source, target, kind, weight, stderr, baseline, exact, exactError, causal, via, effect: exact ?? weight });

  const isPart = (place) => ["head", "neuron"].includes(raw.nodes[place].kind);

  const circuits = raw.circuits.map((circuit) => {
    const edges = circuit.edges.map(edge);
    const largest = {};
    for (const { kind, effect } of edges) largest[kind] = Math.max(largest[kind] ?? 0, Math.abs(effect ?? 0));
    return { ...circuit, edges, largest, has: new Set(circuit.nodes), parts: circuit.nodes.filter(isPart).length };
  });

  // [value, low, high, baseline, beats, rank] of a node for an emotion, or null.
  const row = (place, measure, emotion) => raw.nodes[place].scores[measure]?.[emotion] ?? null;
  const value = (place, measure, emotion) => row(place, measure, emotion)?.[0] ?? null;

  // Own effects lie along other directions in every layer's sublayers, so each kind has its own
  // largest; effects on the readout are comparable.
  const group = (kind, measure) => (measure === "effect" || kind === "sublayer" ? kind : "part");
  const largest = new Map();
  circuits.forEach((circuit, emotion) => {
    for (const place of circuit.nodes) {
      for (const { id } of raw.measures) {
        const key = `${emotion} ${id} ${group(raw.nodes[place].kind, id)}`;
        largest.set(key, Math.max(largest.get(key) ?? 0, Math.abs(value(place, id, emotion) ?? 0)));
      }
    }
  });

  // Between 0 and 1: the size of a node's effect beside the largest that it is compared with.
  const strength = (place, measure, emotion) => {
    const most = largest.get(`${emotion} ${measure} ${group(raw.nodes[place].kind, measure)}`);
    return most ? Math.min(1, Math.abs(value(place, measure, emotion) ?? 0) / most) : 0;
  };

  const members = raw.nodes.map((_, place) =>
    circuits.flatMap((circuit, emotion) => (circuit.has.has(place) ? [emotion] : [])));

  const patterns = new Map();
  for (const { node, prompt, weights } of raw.patterns) {
    if (!patterns.has(node)) patterns.set(node, []);
    patterns.get(node).push({ prompt: raw.prompts[prompt], weights });
  }

  // A pattern as bytes, row after row, each one longer than the one before.
  const bytes = (weights) => Uint8Array.from(atob(weights), (letter) => letter.charCodeAt(0));

  const withPaths = circuits.filter((circuit) => circuit.edges.some(({ kind }) => kind === "path")).length;
  const kindWords = { head: "head", neuron: "neuron", sublayer: "sublayer", embed: "embedding", readout: "readout" };

  return { ...raw, raw, places, circuits, isPart, row, value, strength, members, patterns, bytes, withPaths, kindWords };
})();
