"use strict";

// The edges of a node as lists of neighbours, the strongest first.
const Edges = (() => {
  const { h, number } = Dom;
  const MOST = 6;

  const words = ({ kind, via, exact, stderr, exactError, baseline, causal, weight }) => {
    if (kind === "residual") return "stream";
    if (kind !== "path") return kind === "part" ? "writes through it" : "direct";
    const error = exact === null ? stderr : exactError;
    const interval = error === null ? "" : ` ± ${number(1.96 * error, 2)}`;
    const how = exact === null ? "attributed" : `patched (attributed ${number(weight)})`;
    const shown = causal === null ? "" : causal ? ", causal" : ", not shown to be causal";
    const beside = baseline === null ? "" : `, random baseline ${number(baseline, 2)}`;
    return `into ${via}, ${how}${interval}${beside}${shown}`;
  };

  const item = (edge, neighbour) => h("li", {},
    h("button", { type: "button", class: "link", onclick: () => Panel.choose(neighbour) }, Data.nodes[neighbour].id),
    h("span", { class: "value" }, number(edge.effect)),
    h("span", { class: "soft" }, words(edge)));

  const list = (title, edges, end) => {
    const strongest = [...edges].sort((a, b) => Math.abs(b.effect ?? 0) - Math.abs(a.effect ?? 0));
    if (!strongest.length) return [];
    const more = strongest.length > MOST ? ` (${MOST} of ${strongest.length})` : "";
    return [h("h4", {}, title + more), h("ul", { class: "edges" }, strongest.slice(0, MOST).map((edge) => item(edge, edge[end])))];
  };

  // Edges of a node in a circuit, whatever the thresholds hide.
  const section = (place, emotion) => {
    const own = Data.circuits[emotion].edges.filter(({ kind }) => kind !== "residual");
    return [
      ...list("From", own.filter((edge) => edge.target === place), "source"),
      ...list("To", own.filter((edge) => edge.source === place), "target"),
    ];
  };

  return { section };
})();
