// The agent script's main module: calls the customer's module for the front.
//
// Consumes, by RPC over the front's service or dispatch binding, and from nowhere else:
//   isCallable()          → "yes", or "no" when the module has no form that can be called
//   answer(call, caller)  → the whole answer: lines, described in webhost-lines.mjs, as one text
//   stream(call, caller)  → the same lines as a stream of bytes, each as soon as it is there
// `call` is the front's `parseCall`, with the platform's session id; `caller` is its `Caller`.
// Both throw what fails before the module has answered; what fails later is a line.
//
// This script is the customer's: the platform relies on nothing in it, and its bindings hold
// nothing of the platform's.

import { WorkerEntrypoint } from "cloudflare:workers";

import customer, { invokePath } from "./webhost-customer.mjs";
import { Context } from "./webhost-context.mjs";
import { runInvoke } from "./webhost-invoke.mjs";
import { linesOf, messageOf } from "./webhost-lines.mjs";
import { runPlain } from "./webhost-plain.mjs";

const isFunction = (name) => typeof customer?.[name] === "function";

export default class extends WorkerEntrypoint {
  isCallable() {
    return isFunction("invoke") || isFunction("fetch") ? "yes" : "no";
  }

  async answer(call, caller) {
    const context = new Context(this, call, caller);
    let text = "";
    for await (const line of linesOf(await this.#begin(call, context), context)) text += line;
    return text;
  }

  async stream(call, caller) {
    const context = new Context(this, call, caller);
    context.watch();
    const answer = await this.#begin(call, context);
    const { readable, writable } = new IdentityTransformStream();
    this.ctx.waitUntil(write(linesOf(answer, context), writable.getWriter(), context));
    return readable;
  }

  /** The module's answer: `{chunks, usage()}`, of the form that `linesOf` takes. */
  async #begin(call, context) {
    try {
      if (isFunction("invoke")) return await runInvoke(customer, call, context);
      if (isFunction("fetch")) return await runPlain(customer, call, context, invokePath);
      throw new TypeError("The module's default export has neither invoke() nor fetch().");
    } catch (error) {
      throw new Error(messageOf(error, this.env));
    }
  }
}

async function write(lines, writer, context) {
  const encoder = new TextEncoder();
  for await (const line of lines) {
    if ((await context.unlessGone(writer.write(encoder.encode(line)))).gone) return;
  }
  await context.unlessGone(writer.close());
}
