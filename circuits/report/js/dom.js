"use strict";

// Elements are made here and nowhere else: text goes in as text, never as markup.
const Dom = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  const filled = (element, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  };

  const h = (tag, attributes = {}, ...children) =>
    filled(document.createElement(tag), attributes, children);

  const s = (tag, attributes = {}, ...children) =>
    filled(document.createElementNS(SVG, tag), attributes, children);

  const get = (id) => document.getElementById(id);

  // A number as people read it: three digits, a true minus, a dash where there is none.
  const number = (value, digits = 3) => {
    if (value === null || value === undefined) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size >= 1e5 || size < 1e-4 ? size.toExponential(digits - 1) : String(Number(size.toPrecision(digits)));
    return (value < 0 ? "\u2212" : "") + text;
  };

  const plural = (count, one, many = one + "s") => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

  const reduced = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

  return { SVG, h, s, get, number, plural, reduced };
})();
