/* Connections: opening, output that does not block, and messages out of the bytes that come. */
#ifndef LINE_H
#define LINE_H

#include "histogram.h"
#include "wire.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SMALL 4096      /* messages up to here are handled whole, larger ones as they come */
#define BATCH (1 << 17) /* bytes of small requests that go out in one write */

typedef struct {
    uint32_t id;
    bool busy;
    uint64_t sent_at;
} Slot;

typedef struct Line {
    int fd;
    uint32_t number;
    bool wants_write, is_ready;
    Slot *slots;
    uint32_t slot_count, turn; /* turn: whose answer comes next where answers have no ids */
    uint32_t *queue;           /* slots whose requests are to be sent, a ring */
    uint32_t queue_head, queue_size;
    uint8_t *left; /* small output that the kernel did not take */
    size_t left_size, left_at, left_room;
    uint8_t head[MAX_HEAD]; /* the large request that is being sent: its head, then wire.tail */
    size_t head_size, large_at;
    bool is_sending_large;
    uint8_t *carry; /* the beginning of a message whose end has not come */
    size_t carry_size;
    uint64_t body_left, body_at; /* of a large answer */
    uint32_t body_slot;
    uint32_t received; /* in this round, where rounds are counted */
    bool streams;      /* a stream is open */
    int64_t balance;   /* bytes of its items that may be sent, or that were received and not granted yet */
    int64_t window;    /* what the server's Hello offers */
    uint64_t sent;     /* its items */
} Line;

static Wire wire;
static int poller;
static uint8_t room[1 << 18];

static void on_message(Line *line, int opcode, const uint8_t *p, size_t size);
/* The slot that a large answer belongs to. */
static uint32_t on_large(Line *line, const uint8_t *prefix, uint64_t size);
static void on_answer(Line *line, uint32_t slot);

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static void *take_memory(size_t count, size_t size) {
    void *p = calloc(count ? count : 1, size);
    if (!p)
        fail("out of memory");
    return p;
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void watch(Line *line, bool wants_write) {
    if (line->wants_write == wants_write)
        return;
    line->wants_write = wants_write;
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0u), .data.ptr = line};
    epoll_ctl(poller, EPOLL_CTL_MOD, line->fd, &event);
}

static void keep(Line *line, const uint8_t *data, size_t size) {
    if (line->left_at) {
        memmove(line->left, line->left + line->left_at, line->left_size - line->left_at);
        line->left_size -= line->left_at;
        line->left_at = 0;
    }
    if (line->left_size + size > line->left_room) {
        line->left_room = (line->left_size + size) * 2;
        line->left = realloc(line->left, line->left_room);
        if (!line->left)
            fail("out of memory");
    }
    memcpy(line->left + line->left_size, data, size);
    line->left_size += size;
}

static size_t try_send(Line *line, struct iovec *vector, int count) {
    struct msghdr message = {.msg_iov = vector, .msg_iovlen = (size_t)count};
    ssize_t n = sendmsg(line->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0)
        return (size_t)n;
    if (errno != EAGAIN && errno != EINTR)
        fail("send: %s", strerror(errno));
    return 0;
}

/* Sends what is queued, as far as the kernel takes it. */
static void flush(Line *line) {
    static uint8_t batch[BATCH + MAX_HEAD + SMALL];
    uint64_t time = line->queue_size ? now() : 0;
    for (;;) {
        /* What is left came later than a large request that has begun, which begins only when nothing is left. */
        if (line->is_sending_large) {
            size_t head = line->large_at < line->head_size ? line->head_size - line->large_at : 0;
            size_t sent = line->large_at > line->head_size ? line->large_at - line->head_size : 0;
            struct iovec parts[2] = {{line->head + line->head_size - head, head}, {wire.tail + sent, wire.tail_size - sent}};
            line->large_at += try_send(line, parts, 2);
            if (line->large_at < line->head_size + wire.tail_size)
                return watch(line, true);
            line->is_sending_large = false;
        }
        if (line->left_size > line->left_at) {
            struct iovec rest = {line->left + line->left_at, line->left_size - line->left_at};
            line->left_at += try_send(line, &rest, 1);
            if (line->left_at < line->left_size)
                return watch(line, true);
            line->left_at = line->left_size = 0;
        }
        if (!line->queue_size)
            return watch(line, false);
        size_t size = 0;
        while (line->queue_size && size < BATCH && !line->is_sending_large) {
            Slot *slot = &line->slots[line->queue[line->queue_head]];
            line->queue_head = line->queue_head + 1 == line->slot_count ? 0 : line->queue_head + 1;
            line->queue_size--;
            slot->busy = true;
            slot->sent_at = time;
            if (wire.tail_size > SMALL) {
                line->head_size = write_head(&wire, line->head, slot->id);
                line->large_at = 0;
                line->is_sending_large = true;
            } else {
                size += write_head(&wire, batch + size, slot->id);
                memcpy(batch + size, wire.tail, wire.tail_size);
                size += wire.tail_size;
            }
        }
        if (size) {
            struct iovec whole = {batch, size};
            size_t sent = try_send(line, &whole, 1);
            if (sent < size)
                keep(line, batch + sent, size - sent);
        }
    }
}

static void queue_slot(Line *line, uint32_t slot) {
    uint32_t at = line->queue_head + line->queue_size++;
    line->queue[at >= line->slot_count ? at - line->slot_count : at] = slot;
}

/* Sends a whole small message, after what is being sent. */
static void send_small(Line *line, int opcode, const void *data, size_t size) {
    uint8_t frame[MAX_HEAD + 128];
    keep(line, frame, write_small(frame, opcode, data, size));
    flush(line);
}

static void give_slots(Line *line, uint32_t count) {
    line->slot_count = count;
    line->slots = take_memory(count, sizeof(Slot));
    line->queue = take_memory(count, sizeof(uint32_t));
    for (uint32_t i = 0; i < count; i++) {
        line->slots[i].id = i + 1;
        queue_slot(line, i);
    }
}

static void carry(Line *line, const uint8_t *p, size_t size) {
    if (!line->carry)
        line->carry = take_memory(1, SMALL + 32);
    memcpy(line->carry + line->carry_size, p, size);
    line->carry_size += size;
}

/* The bytes that a message needs before it can be handled; 0 if that is not known yet. */
static size_t wanted(const uint8_t *p, size_t size, size_t *header, uint64_t *length) {
    if (size < 2)
        return 0;
    if (!(p[0] & 0x80) || p[0] & 0x70 || p[1] & 0x80)
        fail("a frame that no server sends here: %02x %02x", p[0], p[1]);
    *length = p[1];
    *header = 2;
    if (p[1] == 126) {
        *header = 4;
        if (size < 4)
            return 0;
        *length = (uint64_t)p[2] << 8 | p[3];
    } else if (p[1] == 127) {
        *header = 10;
        if (size < 10)
            return 0;
        *length = (uint64_t)load_u32(p + 2) << 32 | load_u32(p + 6);
    }
    return *header + (size_t)(*length > SMALL ? 5 : *length);
}

static size_t begin_message(Line *line, const uint8_t *p, size_t size) {
    size_t header;
    uint64_t length;
    size_t need = wanted(p, size, &header, &length);
    if (!need || size < need)
        return 0;
    if (length <= SMALL) {
        on_message(line, p[0] & 0x0f, p + header, (size_t)length);
    } else {
        line->body_slot = on_large(line, p + header, length);
        line->body_left = length - 5;
        line->body_at = 0;
    }
    return need;
}

static void parse(Line *line, const uint8_t *p, size_t size) {
    while (size) {
        if (line->body_left) {
            size_t n = size < line->body_left ? size : (size_t)line->body_left;
            /* Without a payload of ours there is nothing to compare with: `hold` takes items of any. */
            if (wire.size && memcmp(p, wire.payload + line->body_at, n))
                fail("the payload of an answer is not what was sent");
            p += n, size -= n;
            line->body_at += n;
            line->body_left -= n;
            if (!line->body_left)
                on_answer(line, line->body_slot);
        } else if (line->carry_size) {
            /* As much as completes this message, no more: what follows is handled where it is. */
            size_t header;
            uint64_t length;
            size_t need = wanted(line->carry, line->carry_size, &header, &length);
            size_t missing = need ? need - line->carry_size : 1;
            size_t n = missing < size ? missing : size;
            carry(line, p, n);
            p += n, size -= n;
            if (begin_message(line, line->carry, line->carry_size))
                line->carry_size = 0;
        } else {
            size_t used = begin_message(line, p, size);
            if (!used) {
                carry(line, p, size);
                return;
            }
            p += used, size -= used;
        }
    }
}

/* Reads once; false if there was nothing. */
static bool receive(Line *line, int flags) {
    ssize_t n = recv(line->fd, room, sizeof room, flags);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n < 0)
        fail("recv: %s", strerror(errno));
    if (n == 0)
        fail("the server hung up");
    parse(line, room, (size_t)n);
    return true;
}

static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==", ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

static size_t write_opening(char *out, size_t out_size, const char *path) {
    const char *subprotocol = wire.dialect == V1 ? "Sec-WebSocket-Protocol: sockrpc.v1\r\n"
                                                 : "Sec-WebSocket-Protocol: websocket.io-rpc-v0.1\r\n";
    int n = snprintf(out, out_size,
                     "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                     path, KEY, wire.dialect == ECHO || wire.dialect == SOCKETIO ? "" : subprotocol);
    return (size_t)n;
}

/* The size of the answer to the opening, or 0 as long as it is not whole. */
static size_t check_opening(const char *head, size_t size) {
    const char *end = memmem(head, size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    size_t length = (size_t)(end - head) + 4;
    if (memcmp(head, "HTTP/1.1 101 ", 13) || !memmem(head, length, ACCEPT, sizeof ACCEPT - 1))
        fail("the opening was answered with %.*s", (int)length, head);
    return length;
}

static int open_socket(uint16_t port, int type) {
    int fd = socket(AF_INET, SOCK_STREAM | type, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0)
        fail("socket: %s", strerror(errno));
    if (connect(fd, (void *)&address, sizeof address) && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void open_line(Line *line, uint32_t number, uint16_t port, const char *path) {
    char opening[1024], head[4096];
    size_t size = write_opening(opening, sizeof opening, path), used, got = 0;
    line->number = number;
    line->fd = open_socket(port, 0);
    struct timeval patience = {.tv_sec = 20};
    setsockopt(line->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (send(line->fd, opening, size, MSG_NOSIGNAL) != (ssize_t)size)
        fail("send: %s", strerror(errno));
    while (!(used = check_opening(head, got))) {
        ssize_t n = recv(line->fd, head + got, sizeof head - got, 0);
        if (n <= 0)
            fail("no answer to the opening: %s", n ? strerror(errno) : "the server hung up");
        got += (size_t)n;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = line};
    epoll_ctl(poller, EPOLL_CTL_ADD, line->fd, &event);
    line->is_ready = wire.dialect != SOCKETIO && wire.dialect != V1;
    if (wire.dialect == V1) {
        /* It serves no calls, and takes messages of a size that nothing here has. */
        uint8_t hello[14] = {HELLO};
        store_u32(hello + 6, wire.window);
        store_u32(hello + 10, 1u << 30);
        send_small(line, BINARY, hello, sizeof hello);
    }
    parse(line, (uint8_t *)head + used, got - used);
    while (!line->is_ready)
        if (!receive(line, 0))
            fail("the server said no hello, or did not take the connection to its namespace");
}

#endif
