"use strict";

// The shapes of nodes and edges: what kind, how large, towards the emotion or away from it.
const Marks = (() => {
  const SIZES = { head: [6, 13], neuron: [3.5, 9], sublayer: [6, 10], embed: [11, 11], readout: [11, 11] };

  const radius = (kind, strength) => {
    const [least, most] = SIZES[kind];
    return least + (most - least) * Math.sqrt(strength);
  };

  const polygon = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}Z`;

  const shape = (kind, r) => {
    if (kind === "head") return `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
    if (kind === "neuron") return polygon([[0, -r], [r, 0], [0, r], [-r, 0]]);
    if (kind === "sublayer") return polygon([[-r, -r], [r, -r], [r, r], [-r, r]].map(([x, y]) => [x * 0.86, y * 0.86]));
    return polygon([0, 1, 2, 3, 4, 5].map((n) => [r * Math.cos((n * Math.PI) / 3), r * Math.sin((n * Math.PI) / 3)]));
  };

  // Filled: towards the emotion; open: away from it; grey: no effect known.
  const look = (place, emotion, measure, colours) => {
    const { kind } = Data.nodes[place];
    const value = Data.value(place, measure, emotion);
    const own = kind === "sublayer" ? colours.soft : Data.emotions[emotion].colour;
    const outline = kind === "sublayer" ? own : Theme.outline(own);
    if (kind === "embed" || kind === "readout" || !value) {
      return { fill: colours.panel, stroke: colours.soft, "stroke-width": 1.5 };
    }
    return value > 0
      ? { fill: own, stroke: outline, "stroke-width": 1 }
      : { fill: colours.paper, stroke: outline, "stroke-width": 2 };
  };

  // A line from node to node; paths and direct effects are bowed so that they do not hide others.
  const line = (kind, [x1, y1], [x2, y2], across) => {
    const p = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;
    if (kind === "part") return `M${p(x1, y1)}L${p(x2, y2)}`;
    if (kind === "residual") {
      const bend = across ? [[x1, 0], [x2, 0]] : [[0, y1], [0, y2]];
      return `M${p(x1, y1)}L${p(...bend[0])}L${p(...bend[1])}L${p(x2, y2)}`;
    }
    const [a, b] = across ? [[x1 + (x2 - x1) * 0.5, y1], [x1 + (x2 - x1) * 0.5, y2]] : [[x1, y1 + (y2 - y1) * 0.5], [x2, y1 + (y2 - y1) * 0.5]];
    return `M${p(x1, y1)}C${p(...a)} ${p(...b)} ${p(x2, y2)}`;
  };

  // Edges that look alike are one path: thousands of them cost no more than a few elements.
  const WIDTHS = [0.7, 1.4, 2.4, 3.8];

  const edgeGroups = (edges, emotion, at, across) => {
    const { largest } = Data.circuits[emotion];
    const groups = new Map();
    for (const edge of edges) {
      const share = largest[edge.kind] ? Math.abs(edge.effect ?? 0) / largest[edge.kind] : 0;
      const width = edge.kind === "residual" ? 2 : WIDTHS[Math.min(3, Math.floor(share * 4))];
      const sign = edge.effect === null ? "none" : edge.effect < 0 ? "away" : "towards";
      const key = `${edge.kind} ${sign} ${width} ${edge.causal === false}`;
      if (!groups.has(key)) groups.set(key, { kind: edge.kind, sign, width, weak: edge.causal === false, d: [] });
      groups.get(key).d.push(line(edge.kind, at.get(edge.source), at.get(edge.target), across));
    }
    return [...groups.values()];
  };

  const OPACITY = { part: 0.45, path: 0.75, direct: 0.35, residual: 0.6 };

  const edgeLook = ({ kind, sign, width, weak }, colours) => ({
    fill: "none",
    stroke: sign === "none" ? colours.soft : Data.signs[sign],
    "stroke-width": width,
    "stroke-opacity": OPACITY[kind] * (weak ? 0.45 : 1),
    "stroke-dasharray": sign === "away" ? "4 3" : null,
  });

  return { radius, shape, look, line, edgeGroups, edgeLook };
})();
