"use strict";

// Small drawings of the panel: intervals beside their baseline, and lists of tokens as bars.
const Charts = (() => {
  const { h, s, number } = Dom;
  const WIDTH = 128;
  const HEIGHT = 16;

  const scaleOf = (rows) => {
    const ends = rows.filter(Boolean).flatMap(([value, low, high, baseline]) => [value, low ?? value, high ?? value, baseline ?? 0, -(baseline ?? 0), 0]);
    const [least, most] = [Math.min(0, ...ends), Math.max(0, ...ends)];
    const wide = most - least || 1;
    return (value) => 6 + ((value - least) / wide) * (WIDTH - 12);
  };

  // A dot with its 95% interval; grey: what random directions reach; a line at zero.
  const interval = (row, x, colour, words) => {
    const colours = Theme.palette();
    const [value, low, high, baseline] = row;
    return s("svg", { class: "interval", width: WIDTH, height: HEIGHT, role: "img", "aria-label": words },
      baseline ? s("rect", { x: x(-baseline), y: 2, width: Math.max(1, x(baseline) - x(-baseline)), height: HEIGHT - 4, fill: colours.line }) : null,
      s("line", { x1: x(0), x2: x(0), y1: 0, y2: HEIGHT, stroke: colours.soft }),
      low === null || low === undefined ? null : s("line", { x1: x(low), x2: Math.max(x(high), x(low) + 1), y1: HEIGHT / 2, y2: HEIGHT / 2, stroke: colour, "stroke-width": 3 }),
      s("circle", { cx: x(value), cy: HEIGHT / 2, r: 4, fill: value < 0 ? colours.paper : colour, stroke: Theme.outline(colour), "stroke-width": 1.5 }));
  };

  const swatch = (emotion) => {
    const mark = h("span", { class: "swatch" });
    mark.style.backgroundColor = Data.emotions[emotion].colour;
    return mark;
  };

  // Spaces and line ends are part of a token, so they are shown.
  const spelled = (token) => token.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^ /, "␣") || "(empty)";

  const tokenList = (title, list, colour) => {
    const most = Math.max(...list.map(([, size]) => size), 1e-9);
    return h("div", { class: "tokens" }, h("h4", {}, title), h("ol", {}, list.map(([word, size]) => {
      const bar = h("span", { class: "bar" });
      bar.style.width = `${(100 * size) / most}%`;
      bar.style.backgroundColor = Theme.mixed(colour, 0.3);
      return h("li", {}, bar, h("code", {}, spelled(Data.words[word])), h("span", { class: "size" }, number(size, 2)));
    })));
  };

  return { scaleOf, interval, swatch, spelled, tokenList };
})();
