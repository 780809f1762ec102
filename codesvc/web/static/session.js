/* Signing in, the end of a session, and which campaign is shown. */

import { byId, duration, onSubmit, tell, tellError } from "./dom.js";

const TICK_MILLISECONDS = 15_000;

export class Session {
  #api;
  #open;
  #close;
  #ends = 0;
  #before = null;

  /** ``open(campaign)`` loads a campaign with the new token, or throws; ``close()`` ends what goes on in the background. */
  constructor(api, { open, close }) {
    this.#api = api;
    this.#open = open;
    this.#close = close;
    this.campaign = new URLSearchParams(location.search).get("campaign") ?? "";
    api.refused = (problem) => this.#refuse(problem);
    onSubmit(byId("sign-in-form"), byId("sign-in-told"), () => this.#signIn(byId("token").value.trim()));
    onSubmit(byId("campaign-form"), byId("stock-told"), () => this.#switch(byId("campaign").value.trim()));
    byId("sign-out").addEventListener("click", () => this.#signOut());
    byId("dev-token").addEventListener("click", () => this.#useDevToken());
    setInterval(() => this.#tick(), TICK_MILLISECONDS);
    byId("first-campaign").value = this.campaign;
    this.#show(false);
    byId("token").focus();
  }

  /** Offer a token for development where the service hands them out. */
  offerDevToken() {
    byId("dev-token").hidden = false;
  }

  async #useDevToken() {
    const place = byId("sign-in-told");
    tell(place);
    try {
      const { data } = await this.#api.call("GET", "dev/token");
      byId("token").value = data.token;
      byId("sign-in-form").requestSubmit();
    } catch (error) {
      tellError(place, error);
    }
  }

  async #signIn(token) {
    // Header values are of these characters only; fetch() would say so in words that help nobody.
    if (!/^[\x21-\x7e]+$/.test(token)) {
      tell(byId("sign-in-told"), "bad", "This is not a token: it holds a blank or a character that no token has.");
      return;
    }
    this.#api.token = token;
    const campaign = byId("first-campaign").value.trim();
    try {
      await this.#open(campaign);
    } catch (error) {
      this.#api.token = "";
      throw error;
    }
    byId("token").value = "";
    this.#ends = expiry(token);
    this.#shown(campaign);
    this.#show(true);
    const back = this.#before?.isConnected ? this.#before : byId("work-title");
    this.#before = null;
    back.focus();
  }

  async #switch(campaign) {
    await this.#open(campaign);
    this.#shown(campaign);
    byId("work-title").focus();
  }

  /** The token is not accepted (any more): back to sign-in; the forms stay as they are behind it. */
  #refuse(problem) {
    if (!byId("sign-in").hidden) return;
    this.#before = document.activeElement;
    this.#end("Sign in again", "Your session has ended. What you typed is still there, and was not sent.");
    tellError(byId("sign-in-told"), problem);
  }

  #signOut() {
    byId("work").querySelectorAll("form").forEach((form) => form.reset());
    this.#end("Sign in", "You have signed out.");
    tell(byId("sign-in-told"));
    document.dispatchEvent(new Event("signed-out"));
  }

  #end(title, note) {
    this.#api.token = "";
    this.#ends = 0;
    this.#close();
    byId("sign-in-title").textContent = title;
    byId("sign-in-note").textContent = note;
    this.#show(false);
    byId("token").focus();
  }

  #shown(campaign) {
    this.campaign = campaign;
    byId("first-campaign").value = campaign;
    byId("campaign").value = campaign;
    byId("work-title").textContent = `Campaign ${campaign}`;
    document.title = `${campaign} · codesvc`;
    // The campaign is no secret: with it in the address, the page can be bookmarked and loaded again.
    history.replaceState(null, "", `${location.pathname}?${new URLSearchParams({ campaign })}`);
  }

  #show(signedIn) {
    byId("sign-in").hidden = signedIn;
    for (const id of ["work", "campaign-form", "session"]) byId(id).hidden = !signedIn;
    this.#tick();
  }

  #tick() {
    const left = this.#ends - Date.now() / 1000;
    const minutes = 60 * Math.ceil(left / 60);
    byId("session-left").textContent = !this.#ends ? "" : left > 0 ? `Token ends in ${duration(minutes)}` : "Token expired";
  }
}

/** Read when a token ends, in seconds since 1970; 0 if it does not say so. Only to be shown: the service decides. */
function expiry(token) {
  try {
    const claims = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return Number(claims.exp) || 0;
  } catch {
    return 0;
  }
}
