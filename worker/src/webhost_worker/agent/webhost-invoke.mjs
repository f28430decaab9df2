// Calls a module of the form `{invoke(request, context)}`.

/**
 * @returns {Promise<{chunks: Iterator<string> | AsyncIterator<string>, usage: () => unknown}>}
 *   `chunks` is pulled as the caller reads; `usage()` is what the module reported, known once the
 *   chunks have ended
 */
export async function runInvoke(customer, call, context) {
  const { input, options, metadata, traceId, sessionId, invocationId } = call;
  const answer = await customer.invoke(
    { input, options, metadata, traceId, sessionId, invocationId },
    {
      env: context.env,
      session: context.session,
      traceId,
      get signal() {
        return context.signal;
      },
    },
  );
  const text = typeof answer === "string" ? answer : answer?.output?.text;
  if (typeof text === "string") return wholeAnswer(text, answer.usage);
  const iterate = answer?.[Symbol.asyncIterator] ?? answer?.[Symbol.iterator];
  if (typeof iterate === "function") return streamedAnswer(iterate.call(answer));
  throw new TypeError(
    "invoke() gave neither text, an invoke/v1 response nor an iterable of text.",
  );
}

/** An answer that is complete already, in the form of a streamed one. */
export function wholeAnswer(text, usage) {
  return { chunks: [text][Symbol.iterator](), usage: () => usage };
}

/** A generator may end with `return {usage}`. */
function streamedAnswer(iterator) {
  let usage;
  const chunks = {
    async next() {
      const { done, value } = await iterator.next();
      if (done) usage = value?.usage;
      return { done, value: done ? undefined : value };
    },
    return: () => iterator.return?.(),
  };
  return { chunks, usage: () => usage };
}
