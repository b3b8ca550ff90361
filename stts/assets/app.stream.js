// Gradio tells what becomes of all events on one stream, which the server closes after the last answer. The answer to an
// event that comes in between is on the next stream, but a page to which the old one still seems open would not fetch
// that. So here a page learns that its event was taken only once the stream tells of it, or is closed.
(() => {
  const ask = window.fetch, decoder = new TextDecoder("latin1"), named = /"event_id":"(\w+)"/g, overlap = 99;
  let told = null, waiting = [];
  const wake = () => waiting.splice(0).forEach(go => go());

  function follow(request, response) {
    const mine = told = new Set();
    const over = () => { if (told === mine) told = null; wake(); };
    request.signal.addEventListener("abort", over);
    return response.then(found => {
      let text = "";
      const hear = new TransformStream({
        transform(bytes, on) {
          text = text.slice(-overlap) + decoder.decode(bytes);
          for (const [, event] of text.matchAll(named)) mine.add(event);
          on.enqueue(bytes);
          wake();
        },
        flush: over,
      });
      return new Response(found.body.pipeThrough(hear), found);
    }).catch(error => { over(); throw error; });
  }

  window.fetch = async (what, how) => {
    const url = String(what.url || what), response = ask(what, how);
    if (url.includes("/queue/data?")) return follow(what, response);
    if (url.includes("/queue/join?")) {
      const { event_id } = await (await response).clone().json();
      while (event_id && told && !told.has(event_id)) await new Promise(go => waiting.push(go));
    }
    return response;
  };
})();
