// Upgrades the connection.
export default {
  fetch: () => {
    const [client, server] = Object.values(new WebSocketPair());
    server.accept();
    server.send("owned");
    return new Response(null, { status: 101, webSocket: client });
  },
};
