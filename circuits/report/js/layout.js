"use strict";

// Where nodes stand: layers follow each other along the residual stream, heads on one side of it
// and neurons on the other, the strongest next to the stream.
const Layout = (() => {
  const HEAD = 44; // room for a head and its label
  const NEURON = 21;
  const SUBLAYER = 36; // from the stream
  const GAP = 18; // between layers
  const END = 48; // from the last layer to the embedding and the readout

  const byStrength = (places, emotions, measure) => {
    const size = new Map(places.map((place) =>
      [place, Math.max(...emotions.map((emotion) => Data.strength(place, measure, emotion)))]));
    return [...places].sort((a, b) => size.get(b) - size.get(a) || a - b);
  };

  const layersOf = (places) => {
    const found = new Map();
    for (const place of places) {
      const { layer, kind } = Data.nodes[place];
      if (layer === undefined) continue;
      if (!found.has(layer)) found.set(layer, { head: [], neuron: [], sublayer: [] });
      found.get(layer)[kind].push(place);
    }
    return [...found].sort(([a], [b]) => a - b);
  };

  // Columns of neurons per layer with which everything is drawn largest.
  const columnsFor = (layers, room, across) => {
    const heads = Math.max(...layers.map(([, own]) => own.head.length), 0);
    const neurons = Math.max(...layers.map(([, own]) => own.neuron.length), 0);
    const size = (columns) => {
      const wide = Math.max(1, Math.floor((columns * NEURON) / HEAD));
      const along = layers.length * (Math.max(columns * NEURON, HEAD) + GAP) + 2 * END;
      const aside = (Math.ceil(heads / wide) + 1) * HEAD + (Math.ceil(neurons / columns) + 1) * NEURON + 2 * SUBLAYER;
      return across ? Math.min(room.width / along, room.height / aside) : Math.min(room.height / along, room.width / aside);
    };
    const tried = Array.from({ length: 12 }, (_, number) => number + 2);
    return tried.reduce((best, columns) => (size(columns) > size(best) ? columns : best));
  };

  // places: of all nodes that may be drawn; room: what they are drawn in, in pixels.
  const arrange = (places, emotions, measure, room) => {
    const across = room.width >= room.height;
    const layers = layersOf(places);
    const columns = layers.length ? columnsFor(layers, room, across) : 2;
    const wide = Math.max(1, Math.floor((columns * NEURON) / HEAD));
    const span = Math.max(columns * NEURON, wide * HEAD) + GAP;
    const at = new Map();
    const put = (place, along, aside) => at.set(place, across ? [along, aside] : [aside, along]);
    const stack = (own, count, step, middle, start, side) =>
      byStrength(own, emotions, measure).forEach((place, number) => {
        const row = Math.floor(number / count);
        const left = Math.min(count, own.length - row * count);
        put(place, middle + ((number % count) - (left - 1) / 2) * step, side * (start + row * step));
      });
    const bands = layers.map(([layer, own], number) => {
      const from = END + number * span;
      for (const place of own.sublayer) {
        const attention = Data.nodes[place].sublayer === "attn";
        put(place, from + span * (attention ? 0.36 : 0.64), attention ? -SUBLAYER : SUBLAYER);
      }
      stack(own.head, wide, HEAD, from + span / 2, SUBLAYER + HEAD, -1);
      stack(own.neuron, columns, NEURON, from + span / 2, SUBLAYER + NEURON + 6, 1);
      return { layer, from, to: from + span };
    });
    const length = 2 * END + layers.length * span;
    for (const place of places) {
      if (Data.nodes[place].kind === "embed") put(place, END / 2, 0);
      if (Data.nodes[place].kind === "readout") put(place, length - END / 2, 0);
    }
    return { at, across, bands, length, box: boxOf([...at.values()]) };
  };

  const boxOf = (points) => {
    if (!points.length) return { x: 0, y: 0, width: 1, height: 1 };
    const xs = points.map(([x]) => x);
    const ys = points.map(([, y]) => y);
    const [x, y] = [Math.min(...xs), Math.min(...ys)];
    return { x, y, width: Math.max(...xs) - x, height: Math.max(...ys) - y };
  };

  return { arrange, boxOf };
})();
