import assert from "node:assert/strict";
import { test } from "node:test";

import { isPrivate } from "../src/webhost_worker/outbound/webhost-hosts.mjs";

const PRIVATE = `0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1
  127.255.255.255 169.254.0.0 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.8 192.0.2.1
  192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1
  255.255.255.255 [::] [::1] [::ffff:a00:1] [64:ff9b::7f00:1] [fc00::1] [fdff::1] [fe80::1] [ff02::1]
  [2001::1] [2001:1ff::1] [2001:db8::1] [2002:7f00:1::] [3fff::1] [4000::1] localhost a.localhost
  printer.local db.internal router.home.arpa`.split(/\s+/);
const PUBLIC = `1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
  169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.1 192.167.255.255 192.169.0.0
  198.17.255.255 198.20.0.0 223.255.255.255 [2001:200::1] [2001:4860:4860::8888] [2606:4700::1111]
  [3ffe::1] example.com internal.example.com mylocalhost local.example`.split(/\s+/);

for (const [names, expected] of [
  [PRIVATE, true],
  [PUBLIC, false],
]) {
  test(`${expected ? "private" : "public"} hosts`, () => {
    for (const name of names) {
      // As URL writes it.
      const { hostname } = new URL(`http://${name}/`);
      assert.equal(isPrivate(hostname), expected, `${name} (${hostname})`);
    }
  });
}
