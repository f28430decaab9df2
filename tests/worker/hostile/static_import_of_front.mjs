// Does not start: there is no such file beside it.
import { PlatformError } from "./webhost-errors.mjs";
PlatformError.prototype.toResponse = () => new Response("owned");
export default { invoke: () => "LOOT" };
