// Plotly's script is embedded in gzip and Base64, to keep the page small.
async function unpacked() {
  const packed = document.getElementById("plotly");
  if (!packed) return;
  const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
  const script = document.createElement("script");
  script.textContent = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(script);
}
const plotly = unpacked();
plotly.catch((error) => {
  for (const plot of document.querySelectorAll(".plot")) {
    plot.style.minHeight = 0;
    plot.textContent = `This browser cannot draw the chart (${error.message}). Use a browser of 2023 or later.`;
  }
});

// Charts are drawn when they are scrolled near the screen, in the light or dark colours that the reader's system uses.
const scheme = matchMedia("(prefers-color-scheme: dark)");
const DARK = {
  "#0a6aa8": "#6cb8f0", "#b8560a": "#f0a35e", "#00785a": "#4fd1a5", "#a8427f": "#e79ac6", "#6a5acd": "#b3a8ff",
  "#8a6d00": "#e3c64a", "#6b7280": "#9aa3b2", "#9ec9ec": "#24527a", "#08306b": "#b9e0ff",
  "#2166ac": "#5aa9f2", "#f7f7f7": "#1d2128", "#b2182b": "#ff7a6b",
};
const root = document.documentElement;
const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

function coloured(value) {
  if (typeof value === "string") return (scheme.matches && !root.classList.contains("print") && DARK[value]) || value;
  if (Array.isArray(value)) return value.map(coloured);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, coloured(inner)]));
  }
  return value;
}

function draw(plot) {
  const figure = coloured(JSON.parse(plot.nextElementSibling.textContent));
  const layout = figure.layout;
  const [text, line, card] = [css("--text"), css("--line"), css("--card")];
  Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, size: 13 } });
  layout.hoverlabel = { bgcolor: card, bordercolor: line, font: { color: text }, align: "left" };
  layout.height = Number(plot.dataset.height);
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key)).concat("xaxis", "yaxis")) {
    layout[axis] = { gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, automargin: true, ...layout[axis] };
  }
  for (const trace of figure.data) {
    if (trace.type === "parcoords") {
      Object.assign(trace, { labelfont: { color: text }, tickfont: { color: text }, rangefont: { color: "rgba(0,0,0,0)" } });
      layout.margin = { l: 60, r: 50, t: 50, b: 30 };
    }
  }
  return Plotly.react(plot, figure.data, layout, { responsive: true, displayModeBar: false });
}

const drawn = new Set();
const near = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting && !drawn.has(one.target))) {
    drawn.add(entry.target);
    near.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "600px" });
plotly.then(() => {
  document.querySelectorAll(".plot").forEach((plot) => near.observe(plot));
  scheme.addEventListener("change", () => drawn.forEach(draw));
  addEventListener("beforeprint", () => {
    root.classList.add("print"); // light colours
    document.querySelectorAll(".plot").forEach(draw);
    document.querySelectorAll("details").forEach((one) => (one.open = true));
  });
  addEventListener("afterprint", () => {
    root.classList.remove("print");
    document.querySelectorAll(".plot").forEach(draw);
  });
});

// Pairs after the first ones are hidden until the button is pressed; page.css always shows them in print.
const rest = document.getElementById("rest");
const button = document.getElementById("show-rest");
function showRest() {
  rest.hidden = false;
  button.hidden = true;
}
button?.addEventListener("click", () => {
  showRest();
  rest.querySelector("a, input").focus({ preventScroll: true });
});
rest?.addEventListener("beforematch", showRest); // the browser's text search found one of them
function follow() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (!rest?.contains(target)) return;
  showRest();
  target.scrollIntoView();
}
addEventListener("hashchange", follow);
follow();

// Sliders between start image and synthetic image: one for each pair, and one for all pairs.
function cut(slider) {
  slider.closest(".pair").querySelector(".compare").style.setProperty("--cut", `${slider.value}%`);
}
document.querySelectorAll(".pair .slider").forEach((slider) => slider.addEventListener("input", () => cut(slider)));
document.getElementById("all-pairs")?.addEventListener("input", (event) => {
  document.querySelectorAll(".pair .slider").forEach((slider) => {
    slider.value = event.target.value;
    cut(slider);
  });
});
