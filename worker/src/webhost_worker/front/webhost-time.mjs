// The front's own clock: nothing that an agent does, or leaves undone, stops it.

import { runtimeError } from "./webhost-errors.mjs";

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** What `promise` settles to, within this time. @throws {PlatformError} 500 RUNTIME_ERROR */
export async function withDeadline(promise, milliseconds) {
  const late = sleep(milliseconds).then(() => {
    throw runtimeError("The agent did not answer in time.");
  });
  return await Promise.race([promise, late]);
}
