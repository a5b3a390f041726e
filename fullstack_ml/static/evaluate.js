// evaluate.js: brings the screen that the page asks for.
import { boot } from "./address.js";
import { el } from "./dom.js";

const SCREENS = { overview: "./overview.js", cases: "./cases.js", compare: "./compare.js", item: "./item.js", demo: "./demo.js" };
const app = document.getElementById("app"), path = SCREENS[document.body.dataset.screen];

if (path && app) {
  try {
    const { mount } = await import(path);
    await mount(app, boot);
  } catch (failure) {
    if (failure.status === undefined) console.error(failure);
    app.className = "page";
    app.replaceChildren(el("div.empty", { role: "alert" }, el("h2", {}, failure.status === undefined ? "This page cannot be shown." : failure.message), el("p", {}, failure.remedy || "Load the page again; if it stays like this, tell the person who runs it."), el("a.btn", { href: "/" }, "All reports")));
  }
}
