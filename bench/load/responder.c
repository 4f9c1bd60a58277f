/* The other end for proving that the load generator is not what limits: answers of 32 bytes, made beforehand, one for
   every request's bytes, without looking at them. `responder REQUEST_BYTES`; prints its port, ends with its input. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAYLOAD 32
#define ANSWER (2 + 5 + PAYLOAD)
#define MANY 20000

static const char HEAD[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                           "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
                           "Sec-WebSocket-Protocol: websocket.io-rpc-v0.1\r\n\r\n";

typedef struct {
    int fd, is_open;
    size_t part;
} Line;

static uint8_t answers[MANY * ANSWER], room[1 << 18];

static void send_all(int fd, const void *data, size_t size) {
    for (size_t sent = 0; sent < size;) {
        ssize_t n = send(fd, (const uint8_t *)data + sent, size - sent, MSG_NOSIGNAL);
        if (n < 0)
            return;
        sent += (size_t)n;
    }
}

int main(int argc, char **argv) {
    size_t request = argc > 1 ? (size_t)atoi(argv[1]) : 0;
    if (!request)
        return 2;
    for (size_t i = 0; i < MANY; i++) {
        uint8_t *p = answers + i * ANSWER;
        p[0] = 0x82, p[1] = 5 + PAYLOAD, p[2] = 4;
        for (size_t k = 0; k < PAYLOAD; k++)
            p[7 + k] = (uint8_t)('a' + k % 26);
    }
    int listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1024) ||
        getsockname(listener, (void *)&address, &length))
        return 1;
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[64];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    static Line input = {.fd = 0};
    event.data.ptr = &input;
    epoll_ctl(poll, EPOLL_CTL_ADD, 0, &event);
    for (;;) {
        int ready = epoll_wait(poll, events, 64, -1);
        for (int i = 0; i < ready; i++) {
            Line *line = events[i].data.ptr;
            if (line == &input)
                return 0;
            if (!line) {
                line = calloc(1, sizeof *line);
                if (!line || (line->fd = accept(listener, NULL, NULL)) < 0)
                    return 1;
                setsockopt(line->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event.data.ptr = line;
                epoll_ctl(poll, EPOLL_CTL_ADD, line->fd, &event);
                continue;
            }
            ssize_t got = recv(line->fd, room, sizeof room, 0);
            if (got <= 0) {
                close(line->fd);
                free(line);
            } else if (!line->is_open) {
                line->is_open = 1;
                send_all(line->fd, HEAD, sizeof HEAD - 1);
            } else {
                size_t bytes = line->part + (size_t)got;
                line->part = bytes % request;
                for (size_t left = bytes / request, n; left; left -= n) {
                    n = left < MANY ? left : MANY;
                    send_all(line->fd, answers, n * ANSWER);
                }
            }
        }
    }
}
