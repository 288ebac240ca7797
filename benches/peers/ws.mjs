// The usual way in Node: `ws`, one process, no script of anybody else's.
import { WebSocketServer } from 'ws';

const rooms = new Map();
const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2]), perMessageDeflate: false });
server.on('connection', (socket, request) => {
  if (request.url === '/echo') {
    socket.on('message', (data, binary) => socket.send(data, { binary }));
    return;
  }
  const room = rooms.get(request.url) ?? new Set();
  rooms.set(request.url, room.add(socket));
  const isJson = request.url.startsWith('/json/');
  socket.on('message', (data, binary) => {
    if (isJson) {
      const message = JSON.parse(data);
      message.hops += 1;
      data = JSON.stringify(message);
    }
    for (const member of room) if (member !== socket) member.send(data, { binary });
  });
  socket.on('close', () => room.delete(socket));
});
