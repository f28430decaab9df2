// Sends the caller elsewhere.
export default { fetch: () => Response.redirect("https://owned.example/", 302) };
