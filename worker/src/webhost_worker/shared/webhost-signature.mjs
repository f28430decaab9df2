// Ed25519 signatures of the control plane: the gateway's on calls, the deployer's on its own.
//
// Consumes: a header `t=<unix ms>,kid=<key id>,v1=<lower-case hex>`, made over
// `<t>.<audience>.<raw body>`; public keys as a JSON object {kid: base64url of the raw 32 bytes},
// two of them while keys rotate.
// Guarantees: a body comes out only with a signature by one of those keys, over exactly these bytes,
// for this audience, within a minute of now. Every failure is the same UNAUTHENTICATED.

import {
  concat,
  fromBase64Url,
  fromHex,
  importKey,
  matchRegExp,
  now,
  parseJson,
  verify,
} from "./webhost-platform.mjs";
import { payloadTooLarge, unauthenticated } from "./webhost-errors.mjs";

const HEADER = /^t=([0-9]{1,15}),kid=([A-Za-z0-9_.-]{1,64}),v1=([0-9a-f]{128})$/;
const WINDOW_MS = 60_000;
const BODY_LIMIT = 2 * 1024 * 1024;

/**
 * The raw bytes of a request's body, signed under the header of this name.
 * @throws {PlatformError} 401 UNAUTHENTICATED, 413 PAYLOAD_TOO_LARGE
 */
export async function signedBody(request, headerName, publicKeys, audience) {
  const signature = readHeader(request.headers.get(headerName));
  if (signature === null) throw unauthenticated();
  const body = await readBounded(request.body);
  const key = await publicKey(publicKeys, signature.keyId);
  if (key === null) throw unauthenticated();
  const message = concat(`${signature.time}.${audience}.`, body);
  if (!(await verify("Ed25519", key, signature.bytes, message))) throw unauthenticated();
  return body;
}

/** The header's parts when it is well formed and fresh, else null. */
function readHeader(header) {
  const match = matchRegExp(HEADER, header ?? "");
  if (match === null) return null;
  const age = now() - +match[1];
  if (age > WINDOW_MS || age < -WINDOW_MS) return null;
  return { time: match[1], keyId: match[2], bytes: fromHex(match[3]) };
}

async function readBounded(stream) {
  const parts = [];
  let size = 0;
  for await (const part of stream ?? []) {
    size += part.length;
    if (size > BODY_LIMIT) throw payloadTooLarge();
    parts.push(part);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// Keyed by their own text, so that a key never outlives the binding that named it.
const imported = { __proto__: null };

async function publicKey(publicKeys, keyId) {
  try {
    const keys = { __proto__: null, ...parseJson(publicKeys) };
    const text = keys[keyId];
    if (typeof text !== "string") return null;
    imported[text] ??= await importKey("raw", fromBase64Url(text), "Ed25519", false, ["verify"]);
    return imported[text];
  } catch {
    return null;
  }
}
