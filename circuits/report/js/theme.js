"use strict";

// Dark or light, as the system has it or as the switch says; drawings ask for colours here.
const Theme = (() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const listeners = [];

  const isDark = () => (root.dataset.theme === "auto" ? dark.matches : root.dataset.theme === "dark");

  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // The colours of drawings, as values: a saved picture has no style sheet.
  const palette = () => Object.fromEntries(
    ["paper", "panel", "band", "ink", "soft", "line", "accent"].map((name) => [name, colour(name)]));

  const show = () => {
    const button = Dom.get("theme");
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Change to ${isDark() ? "light" : "dark"} colours`);
    for (const listener of listeners) listener();
  };

  const start = () => {
    Dom.get("theme").addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      show();
    });
    dark.addEventListener("change", show);
    show();
  };

  const parts = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  const mixed = (hex, share) => `rgba(${parts(hex).join(",")},${share})`;

  // The colour moved towards the ink: what is drawn with it stands out on this paper.
  const outline = (hex) => {
    const ink = parts(colour("ink"));
    return `#${parts(hex).map((own, at) => Math.round(0.6 * own + 0.4 * ink[at]).toString(16).padStart(2, "0")).join("")}`;
  };

  return { isDark, palette, mixed, outline, start, listen: (listener) => listeners.push(listener) };
})();
