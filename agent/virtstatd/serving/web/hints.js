// Hints: what something with `data-help` means, for mouse and keyboard; Escape closes them.

const MARGIN = 8;

export function startHints() {
  const hint = document.body.appendChild(document.createElement("div"));
  hint.className = "hint";
  hint.hidden = true;
  hint.setAttribute("aria-hidden", "true"); // what it is about has the same text as its description
  let about = null;

  function show(target) {
    const found = target?.closest?.("[data-help]");
    if (found === about) return;
    about = found?.dataset.help ? found : null;
    hint.hidden = !about;
    if (!about) return;
    hint.textContent = about.dataset.help;
    const { left, bottom, top } = about.getBoundingClientRect();
    const { width, height } = hint.getBoundingClientRect();
    const page = document.documentElement;
    const below = bottom + 4;
    hint.style.left = `${Math.max(MARGIN, Math.min(left, page.clientWidth - width - MARGIN))}px`;
    hint.style.top = `${below + height > page.clientHeight ? top - height - 4 : below}px`;
  }

  document.addEventListener("pointerover", ({ target }) => target !== hint && show(target));
  document.addEventListener("focusin", ({ target }) => show(target.matches(":focus-visible") ? target : null));
  document.addEventListener("focusout", () => show(null));
  document.addEventListener("keydown", ({ key }) => key === "Escape" && show(null));
  document.addEventListener("scroll", () => show(null), true);
}
