// The usual way in Bun: its own server, whose rooms are topics that it publishes to by itself.
Bun.serve({
  hostname: '127.0.0.1',
  port: Number(process.argv[2]),
  fetch(request, server) {
    const path = new URL(request.url).pathname;
    const data = { path, isEcho: path === '/echo', isJson: path.startsWith('/json/') };
    if (!server.upgrade(request, { data })) return new Response('this is for WebSockets', { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    // Nothing is dropped on the way, as by the others.
    backpressureLimit: 64 * 1024 * 1024,
    open(socket) {
      if (!socket.data.isEcho) socket.subscribe(socket.data.path);
    },
    message(socket, data) {
      if (socket.data.isEcho) {
        socket.send(data);
        return;
      }
      if (socket.data.isJson) {
        const message = JSON.parse(data);
        message.hops += 1;
        data = JSON.stringify(message);
      }
      // To all others of the topic.
      socket.publish(socket.data.path, data);
    },
  },
});
