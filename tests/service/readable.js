// What is wrong with a page for those who see little or nothing: controls without a name, text of little contrast,
// ids that are there twice, a page without heading or landmark. Formulas: WCAG 2.2, "relative luminance", "contrast ratio".
() => {
  const wrong = [];
  const isShown = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
  const what = (element) => `${element.tagName.toLowerCase()}.${element.className} "${(element.textContent || "").trim().slice(0, 40)}"`;

  const name = (element) =>
    element.getAttribute("aria-label") ||
    [...(element.labels ?? [])].map((label) => label.textContent).join("") ||
    (element.matches("input, select") ? "" : element.textContent);
  for (const element of document.querySelectorAll("a, button, input, select, summary, [role=slider], [role=img], [role=region], section, dialog[open]")) {
    const named = element.matches("section") ? element.getAttribute("aria-label") || element.querySelector("h2") : name(element).trim();
    if (isShown(element) && !named) wrong.push(`no name: ${what(element)}`);
  }
  for (const element of document.querySelectorAll("[onclick], div[tabindex]:not([role])")) wrong.push(`no control: ${what(element)}`);

  const luminance = ([r, g, b]) => {
    const [R, G, B] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  };
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = color;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const backgrounds = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { backgroundColor, backgroundImage } = getComputedStyle(at);
      const inBars = [...backgroundImage.matchAll(/rgba?\([^)]*\)|color\([^)]*\)/g)].map(([color]) => color);
      const own = [backgroundColor, ...inBars].map(rgba).filter(([, , , alpha]) => alpha > 250);
      if (own.length) return own;
    }
    return [[255, 255, 255, 255]];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const element = text.parentElement;
    if (!text.data.trim() || !isShown(element) || element.closest(".hidden, :disabled, option, noscript, script")) continue;
    if (element.closest(".corner, .edge")) continue; // on the images, with a shadow around
    for (const behind of backgrounds(element)) {
      const [light, dark] = [luminance(rgba(getComputedStyle(element).color)), luminance(behind)].sort((a, b) => b - a);
      const contrast = (light + 0.05) / (dark + 0.05);
      if (contrast < 4.5) wrong.push(`contrast ${contrast.toFixed(2)}: ${what(element)}`);
    }
  }

  const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
  for (const id of new Set(ids.filter((one, n) => ids.indexOf(one) !== n))) wrong.push(`id twice: ${id}`);
  if (document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");
  if (!document.querySelector("main") || !document.title || !document.documentElement.lang) wrong.push("no main, title or language");
  return wrong;
}
