// Which hosts are private, by their names alone. What a public name resolves to is the runtime's
// to refuse, and it does.

const PRIVATE_NAMES = ["localhost", "local", "internal", "home.arpa"];
/** IPv4 blocks that are not global, by IANA's registry: first address, bits. */
const PRIVATE_BLOCKS = [
  ["0.0.0.0", 8],
  ["10.0.0.0", 8],
  ["100.64.0.0", 10],
  ["127.0.0.0", 8],
  ["169.254.0.0", 16],
  ["172.16.0.0", 12],
  ["192.0.0.0", 24],
  ["192.0.2.0", 24],
  ["192.168.0.0", 16],
  ["198.18.0.0", 15],
  ["198.51.100.0", 24],
  ["203.0.113.0", 24],
  ["224.0.0.0", 3],
].map(([first, bits]) => [numberOf(first) >>> (32 - bits), bits]);

/** @param {string} name as URL.hostname writes it, without a dot at its end */
export function isPrivate(name) {
  if (name.startsWith("[")) return !isGlobal(name.slice(1, -1));
  if (/^[\d.]+$/.test(name)) {
    const address = numberOf(name);
    return PRIVATE_BLOCKS.some(([block, bits]) => address >>> (32 - bits) === block);
  }
  return PRIVATE_NAMES.some((each) => name === each || name.endsWith(`.${each}`));
}

function numberOf(address) {
  return address.split(".").reduce((number, part) => number * 256 + Number(part), 0);
}

/** Of IPv6 only 2000::/3 is global, but for its blocks that hold IPv4 addresses or examples. */
function isGlobal(address) {
  const [first, second] = address.split(":").map((group) => parseInt(group || "0", 16));
  if (first < 0x2000 || first > 0x3fff) return false;
  const special = first === 0x2002 || first === 0x3fff || (first === 0x2001 && second < 0x200);
  return !special && !(first === 0x2001 && second === 0xdb8);
}
