// The frame under the cursor in large. It stays when the settings change and the pictures are drawn anew.
let chosen = 1;
function pick(viewer, t) {
  const count = Number(viewer.dataset.count);
  chosen = Math.max(0, Math.min(count - 1, t));
  viewer.querySelectorAll(".now").forEach(e => e.classList.remove("now"));
  viewer.querySelectorAll(`[data-t="${chosen}"]`).forEach(e => e.classList.add("now"));
  const cells = viewer.querySelectorAll(`.strip figure[data-t="${chosen}"]`);
  viewer.querySelectorAll(".stage figure").forEach((stage, side) => {
    stage.querySelector(".large").innerHTML = cells[side].innerHTML;
    stage.querySelector(".said").innerHTML = cells[side].dataset.said;
  });
}
function under(event) {
  const place = event.target.closest && event.target.closest("[data-t]");
  if (place) pick(place.closest(".viewer"), Number(place.dataset.t));
}
document.addEventListener("pointermove", under);
document.addEventListener("pointerdown", under);
document.addEventListener("keydown", event => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], viewer = event.target.closest(".viewer");
  if (!step || !viewer) return;
  event.preventDefault();
  pick(viewer, chosen + step);
  viewer.querySelectorAll(".strip .now").forEach(e => e.scrollIntoView({ block: "nearest", inline: "nearest" }));
});
new MutationObserver(() => document.querySelectorAll(".viewer:not([data-ready])").forEach(viewer => {
  viewer.dataset.ready = "yes";
  pick(viewer, chosen);
})).observe(document, { childList: true, subtree: true });
