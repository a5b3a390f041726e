// manage.js: small helps on the pages that the server renders; every page works without them.
import { el, say } from "./dom.js";

/** The clipboard of the browser needs https or localhost; the old way works on plain http in a company's own network. */
async function copy(text) {
  try { await navigator.clipboard.writeText(text); return true; } catch { /* the old way */ }
  const field = document.body.appendChild(el("textarea.visually-hidden", { value: text }));
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

for (const code of document.querySelectorAll("[data-copy]")) {
  const press = el("button.btn.small", { type: "button", onclick: async () => {
    const done = await copy(code.dataset.copy || code.textContent.trim());
    press.textContent = done ? "Copied" : "Select and copy it";
    say(press.textContent);
    setTimeout(() => { press.textContent = "Copy"; }, 2000);
  } }, "Copy");
  code.after(press);
}

// A form that cannot be taken back asks first: <form data-confirm="Close the project?">.
for (const form of document.querySelectorAll("form[data-confirm]")) form.addEventListener("submit", (e) => { if (!confirm(form.dataset.confirm)) e.preventDefault(); });

// Two presses do not make two projects.
for (const form of document.querySelectorAll("form[method=post]")) form.addEventListener("submit", () => setTimeout(() => { for (const b of form.querySelectorAll("button")) b.disabled = true; }));
// A page that comes back out of the browser's memory has its buttons again.
addEventListener("pageshow", () => { for (const b of document.querySelectorAll("form[method=post] button")) b.disabled = false; });

// Working screens in other tabs hear that somebody is signed in again, and send what waits there.
if (document.querySelector(".me")) try { localStorage.setItem("fsml.signed-in", Date.now()); } catch { /* they try by themselves, later */ }
