// Ed25519 signatures of the control plane: the gateway's on calls, the deployer's on its own.
//
// Consumes: a header `t=<unix ms>,kid=<key id>,v1=<lower-case hex>`, made over
// `<t>.<audience>.<raw body>`; public keys as a JSON object {kid: base64url of the raw 32 bytes},
// two of them while keys rotate.
// Guarantees: true only for a signature by one of those keys, over exactly these bytes, for this
// audience, within a minute of now. Every failure is the same `false`; nothing throws.

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

const HEADER = /^t=([0-9]{1,15}),kid=([A-Za-z0-9_.-]{1,64}),v1=([0-9a-f]{128})$/;
const WINDOW_MS = 60_000;

/** The header's parts when it is well formed and fresh, else null: worth reading the body for. */
export function readSignature(header) {
  const match = matchRegExp(HEADER, header ?? "");
  if (match === null) return null;
  const atMs = +match[1];
  const age = now() - atMs;
  if (age > WINDOW_MS || age < -WINDOW_MS) return null;
  return { time: match[1], keyId: match[2], signature: fromHex(match[3]) };
}

/** Whether `signature` (of `readSignature`) is by one of `publicKeys` over these body bytes. */
export async function verifySignature(signature, publicKeys, audience, body) {
  const key = await publicKey(publicKeys, signature.keyId);
  if (key === null) return false;
  const message = concat(`${signature.time}.${audience}.`, body);
  return await verify("Ed25519", key, signature.signature, message);
}

// By their own text, so that a key never outlives the binding that named it.
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
