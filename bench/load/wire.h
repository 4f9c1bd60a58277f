/* What goes over the wire: WebSocket frames of a client, and the dialects that servers of the comparison speak. */
#ifndef WIRE_H
#define WIRE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
enum { NOTIFY = 1, REQUEST, RESET, RESPONSE, OPEN, ITEM, END, CREDIT, ERROR, HELLO, GOAWAY };
enum { CANCELLED = 1 }; /* a code of an error */
enum { OPEN_TIMEOUT = 1, OPEN_SENDS_ITEMS = 4, OPEN_TAKES_ITEMS = 8 };

#define ITEM_COST 64          /* of a window, beside its payload */
#define WINDOW (4 * 65536)    /* what a Python client offers */

/* RPC: requests and responses of websocket.io-rpc-v0.1. V1: the same of sockrpc.v1, and streams. READY: the same to a server whose answers are ready-made, so
   that their ids mean nothing. ECHO: the message is a response already, and comes back. SOCKETIO: events of Socket.IO
   with an acknowledgement. */
typedef enum { RPC, READY, ECHO, SOCKETIO, V1, DIALECT_COUNT } Dialect;
static const char *const DIALECTS[] = {"rpc", "ready", "echo", "socketio", "v1"};

#define MAX_HEAD 320 /* a WebSocket header, a mask, a request's header with the longest name */

static const uint8_t MASK[4] = {0x37, 0xfa, 0x21, 0x3d};
static const uint8_t NO_MASK[4] = {0, 0, 0, 0};

typedef struct {
    Dialect dialect;
    const char *method;
    uint8_t flags;    /* of an Open; requests have none */
    uint8_t code;     /* of the error that answers each request; 0: they are answered by a Response */
    uint32_t timeout; /* of each request, in ms; 0: none */
    uint32_t window;  /* for items towards us */
    size_t size;      /* of a payload */
    uint8_t *payload; /* not masked: what answers are compared with */
    uint8_t *tail;    /* what follows the head of each request, masked */
    size_t tail_size;
} Wire;

static void store_u32(uint8_t *p, uint32_t value) {
    p[0] = (uint8_t)(value >> 24), p[1] = (uint8_t)(value >> 16), p[2] = (uint8_t)(value >> 8), p[3] = (uint8_t)value;
}

static uint32_t load_u32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* A header of RFC 6455, 5.2, with the mask at its end; returns its size. */
static size_t write_header(uint8_t *out, int opcode, uint64_t size, const uint8_t *mask) {
    size_t n = 2;
    out[0] = (uint8_t)(0x80 | opcode);
    if (size < 126) {
        out[1] = (uint8_t)(0x80 | size);
    } else if (size < 65536) {
        out[1] = 0x80 | 126;
        out[2] = (uint8_t)(size >> 8), out[3] = (uint8_t)size;
        n = 4;
    } else {
        out[1] = 0x80 | 127;
        store_u32(out + 2, (uint32_t)(size >> 32));
        store_u32(out + 6, (uint32_t)size);
        n = 10;
    }
    memcpy(out + n, mask, 4);
    return n + 4;
}

static void apply_mask(uint8_t *data, size_t size, const uint8_t *mask, size_t phase) {
    for (size_t i = 0; i < size; i++)
        data[i] ^= mask[(i + phase) & 3];
}

/* A whole frame of a few bytes; returns its size. */
static size_t write_small(uint8_t *out, int opcode, const void *data, size_t size) {
    size_t n = write_header(out, opcode, size, MASK);
    memcpy(out + n, data, size);
    apply_mask(out + n, size, MASK, 0);
    return n + size;
}

static size_t write_named(uint8_t *message, int kind, uint32_t id, const char *name) {
    size_t n = 1, length = strlen(name);
    message[0] = (uint8_t)kind;
    if (kind != NOTIFY) {
        store_u32(message + 1, id);
        n = 5;
    }
    message[n] = (uint8_t)length;
    memcpy(message + n + 1, name, length);
    return n + 1 + length;
}

/* A request with what it may need of options. */
static size_t write_call(const Wire *wire, uint8_t *message, uint32_t id) {
    if (!wire->flags)
        return write_named(message, REQUEST, id, wire->method);
    size_t length = strlen(wire->method), n = 5;
    message[0] = OPEN;
    store_u32(message + 1, id);
    message[n++] = wire->flags;
    if (wire->flags & OPEN_TIMEOUT) {
        store_u32(message + n, wire->timeout);
        n += 4;
    }
    message[n++] = (uint8_t)length;
    memcpy(message + n, wire->method, length);
    return n + length;
}

/* What of a request stands before its payload; `tail` follows. Returns the size. */
static size_t write_head(const Wire *wire, uint8_t *out, uint32_t id) {
    uint8_t prefix[MAX_HEAD];
    size_t size;
    if (wire->dialect == SOCKETIO) {
        size = (size_t)snprintf((char *)prefix, sizeof prefix, "42%u[\"%s\",\"", id, wire->method);
        size_t n = write_header(out, TEXT, size + wire->tail_size, NO_MASK);
        memcpy(out + n, prefix, size);
        return n + size;
    }
    if (wire->dialect == ECHO) {
        prefix[0] = RESPONSE;
        store_u32(prefix + 1, id);
        size = 5;
    } else {
        size = write_call(wire, prefix, id);
    }
    size_t n = write_header(out, BINARY, size + wire->tail_size, MASK);
    apply_mask(prefix, size, MASK, 0);
    memcpy(out + n, prefix, size);
    return n + size;
}

static void wire_init(Wire *wire) {
    wire->payload = malloc(wire->size + 1);
    wire->tail = malloc(wire->size + 3);
    if (!wire->payload || !wire->tail)
        abort();
    /* Text, so that it is the same in JSON. */
    for (size_t i = 0; i < wire->size; i++)
        wire->payload[i] = (uint8_t)('a' + i % 26);
    memcpy(wire->tail, wire->payload, wire->size);
    wire->tail_size = wire->size;
    if (wire->dialect == SOCKETIO) {
        memcpy(wire->tail + wire->size, "\"]", 2);
        wire->tail_size += 2;
    } else {
        uint8_t prefix[MAX_HEAD];
        if (wire->timeout)
            wire->flags |= OPEN_TIMEOUT;
        apply_mask(wire->tail, wire->size, MASK, wire->dialect == ECHO ? 5 : write_call(wire, prefix, 0));
    }
}

#endif
