/* Asking before what cannot be undone. */

import { byId } from "./dom.js";

/** Ask a question in a dialog; resolves to whether the answer was yes. Escape and "Go back" mean no. */
export function confirmed({ title, text, yes }) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  return new Promise((resolve) => {
    let answer = false;
    const accept = () => { answer = true; dialog.close(); };
    const decline = () => dialog.close();
    byId("confirm-yes").addEventListener("click", accept);
    byId("confirm-no").addEventListener("click", decline);
    dialog.addEventListener("close", () => {
      byId("confirm-yes").removeEventListener("click", accept);
      byId("confirm-no").removeEventListener("click", decline);
      resolve(answer);
    }, { once: true });
    dialog.showModal();
    // What does no harm has the focus: Enter out of habit changes nothing.
    byId("confirm-no").focus();
  });
}
