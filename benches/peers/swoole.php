<?php
// The usual way in PHP: Swoole's own server, one process.
$server = new Swoole\WebSocket\Server('127.0.0.1', (int) $argv[1], SWOOLE_BASE);
$server->set([
    'worker_num' => 1,
    'enable_coroutine' => false,
    'open_tcp_nodelay' => true,
    'max_connection' => 100000,
    'backlog' => 4096,
    'package_max_length' => 32 * 1024 * 1024,
    'buffer_output_size' => 32 * 1024 * 1024,
    'log_level' => SWOOLE_LOG_WARNING,
]);
$paths = [];
$rooms = [];
$server->on('open', function ($server, $request) use (&$paths, &$rooms) {
    $path = $request->server['request_uri'];
    $paths[$request->fd] = $path;
    if ($path !== '/echo') {
        $rooms[$path][$request->fd] = true;
    }
});
$server->on('message', function ($server, $frame) use (&$paths, &$rooms) {
    $from = $frame->fd;
    $path = $paths[$from];
    if ($path === '/echo') {
        $server->push($from, $frame->data, $frame->opcode);
        return;
    }
    $data = $frame->data;
    if (str_starts_with($path, '/json/')) {
        $message = json_decode($data, true);
        $message['hops'] += 1;
        $data = json_encode($message);
    }
    foreach ($rooms[$path] as $member => $_) {
        if ($member !== $from) {
            $server->push($member, $data, $frame->opcode);
        }
    }
});
$server->on('close', function ($server, $fd) use (&$paths, &$rooms) {
    if (isset($paths[$fd])) {
        unset($rooms[$paths[$fd]][$fd], $paths[$fd]);
    }
});
$server->start();
