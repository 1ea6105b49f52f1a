// Live updates: asks for the same page again and takes over the parts that changed. Without it the page is whole, and stands still.
//
// One request at a time, none while the page is hidden; the pauses grow with the time that an answer takes, and after failures. What a reader is using is left alone: a part
// with the focus or a selection in it, and whether a details element is open.
(() => {
  "use strict";
  const parts = () => document.querySelectorAll("[data-live]");
  if (parts().length < 2) return; // Only the head: nothing on this view moves.
  const usual = 2000, longest = 30000, patience = 10000;
  let pause = usual, timer = 0, isAsking = false;

  const isInUse = (part) => {
    const selection = document.getSelection();
    return (part.contains(document.activeElement) && document.activeElement !== document.body)
      || (selection !== null && !selection.isCollapsed && part.contains(selection.anchorNode));
  };

  const takeOver = (old, fresh) => {
    const opened = new Set(Array.from(old.querySelectorAll("details[open][data-keep]"), (one) => one.dataset.keep));
    for (const one of fresh.querySelectorAll("details[data-keep]")) one.open = opened.has(one.dataset.keep);
    const known = new Set(Array.from(old.querySelectorAll(".event .number"), (one) => one.textContent));
    for (const one of fresh.querySelectorAll(".event")) {
      const number = one.querySelector(".number");
      if (known.size > 0 && number !== null && !known.has(number.textContent)) one.classList.add("is-new");
    }
    old.replaceWith(document.adoptNode(fresh));
  };

  const seen = new Map(Array.from(parts(), (part) => [part.dataset.live, part.innerHTML]));
  const mark = (isLive) => {
    for (const one of document.querySelectorAll("[data-live-mark]")) {
      one.hidden = false;
      one.textContent = isLive ? "live" : "not reachable";
      one.classList.toggle("is-stale", !isLive);
    }
  };

  const update = (fresh) => {
    for (const part of parts()) {
      const name = part.dataset.live;
      const other = fresh.querySelector(`[data-live="${name}"]`);
      if (other === null || other.innerHTML === seen.get(name) || isInUse(part)) continue;
      seen.set(name, other.innerHTML);
      takeOver(part, other);
    }
  };

  const plan = () => {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(ask, pause);
  };

  const ask = () => {
    if (isAsking || document.hidden) return;
    isAsking = true;
    const asked = performance.now();
    const request = new XMLHttpRequest();
    request.open("GET", location.pathname + location.search);
    request.responseType = "document"; // Parsed without running anything.
    request.timeout = patience;
    request.onloadend = () => {
      isAsking = false;
      const isAnswered = request.status === 200 && request.responseXML !== null;
      if (isAnswered) update(request.responseXML);
      mark(isAnswered);
      pause = Math.min(isAnswered ? Math.max(usual, 20 * (performance.now() - asked)) : pause * 2, longest);
      plan();
    };
    request.send();
  };

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : ask()));
  mark(true);
  plan();
})();
