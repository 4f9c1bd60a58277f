/* The load generator: opens connections, keeps calls in flight on each, checks every answer, and says how long they
   took, as JSON. bench/README.md says what each mode does. Any wrong answer ends it with exit code 1. */
#include "line.h"
#include <getopt.h>
#include <poll.h>
#include <sys/resource.h>

typedef enum { CALLS, ABORTS, STREAM, UPLOAD, FANOUT, HOLD, CONNECT, PERCENTILES, MODE_COUNT } Mode;
static const char *const MODES[] = {"calls", "reset", "stream", "upload", "fanout", "hold", "connect", "percentiles"};

static struct {
    Mode mode;
    uint16_t port;
    const char *path;
    uint32_t connections, in_flight, busy_connections, count;
    double seconds, warm_up, patience; /* patience: seconds without an answer, after which a server counts as dead */
} options = {.path = "/", .connections = 1, .in_flight = 1, .count = 1000, .seconds = 1.0, .warm_up = 0.2, .patience = 20};

static Line *lines;
static Histogram round_trips, resets;
static uint64_t answers, progress, read_at;
static bool is_over;

/* The connection that resets: an echo, then a call that waits, and its reset, in turn. */
static enum { ECHOED, BEGUN, ABORTED } probe_waits_for;
static bool probe_has_ended;
static uint32_t probe_id;
static uint64_t probe_sent_at;

static void check_payload(const uint8_t *p, size_t size) {
    if (size != wire.size)
        fail("an answer has a payload of %zu bytes, not %zu", size, wire.size);
    if (memcmp(p, wire.payload, size))
        fail("the payload of an answer is not what was sent");
}

/* Items belong to the one stream of their connection. */
#define ITEM_SLOT UINT32_MAX
#define STREAM_ID 1u

static void on_item(Line *line) {
    progress++;
    line->received++;
    if (is_over || options.mode != STREAM)
        return;
    answers++;
    line->balance += (int64_t)wire.size + ITEM_COST;
    if (wire.dialect == V1 && 2 * line->balance >= (int64_t)wire.window) {
        uint8_t credit[9] = {CREDIT};
        store_u32(credit + 1, STREAM_ID);
        store_u32(credit + 5, (uint32_t)line->balance);
        line->balance = 0;
        send_small(line, BINARY, credit, sizeof credit);
    }
}

static uint32_t slot_of(Line *line, uint32_t id) {
    if (wire.dialect == READY) {
        uint32_t slot = line->turn;
        line->turn = slot + 1 == line->slot_count ? 0 : slot + 1;
        return slot;
    }
    uint32_t slot = line->slot_count ? (id - 1) % line->slot_count : 0;
    if (!id || !line->slot_count || line->slots[slot].id != id || !line->slots[slot].busy)
        fail("an answer to call %u, which is not in flight", id);
    return slot;
}

static void on_answer(Line *line, uint32_t number) {
    if (number == ITEM_SLOT) {
        on_item(line);
        return;
    }
    Slot *slot = &line->slots[number];
    /* Where there is a probe, it alone is timed; these make its load. */
    if (options.mode != ABORTS)
        histogram_add(&round_trips, read_at - slot->sent_at);
    answers++;
    progress++;
    slot->busy = false;
    slot->id += line->slot_count;
    if (!is_over)
        queue_slot(line, number);
}

static uint32_t on_large(Line *line, const uint8_t *prefix, uint64_t size) {
    bool is_item = prefix[0] == ITEM && line->streams;
    if ((prefix[0] != RESPONSE && !is_item) || wire.dialect == SOCKETIO)
        fail("a large message that is no answer");
    if (is_item && (size - 5 == wire.size || options.mode == HOLD))
        return ITEM_SLOT;
    if (size - 5 != wire.size)
        fail("an answer has a payload of %llu bytes, not %zu", (unsigned long long)size - 5, wire.size);
    return slot_of(line, load_u32(prefix + 1));
}

static void probe_sends(Line *line, int kind, const char *name) {
    uint8_t message[MAX_HEAD + SMALL];
    size_t size = 5;
    if (kind == RESET) {
        message[0] = RESET;
        store_u32(message + 1, probe_id);
    } else {
        size = write_named(message, REQUEST, ++probe_id, name);
        if (name == wire.method) {
            memcpy(message + size, wire.payload, wire.size);
            size += wire.size;
        }
    }
    uint8_t frame[2 * MAX_HEAD + SMALL];
    size = write_small(frame, BINARY, message, size);
    probe_sent_at = now();
    if (send(line->fd, frame, size, MSG_NOSIGNAL) != (ssize_t)size)
        fail("send: %s", strerror(errno));
}

static bool is_error(const uint8_t *p, size_t size, uint32_t id, uint8_t code) {
    return size >= 9 && p[0] == ERROR && load_u32(p + 1) == id && p[5] == code;
}

static bool is_notify(const uint8_t *p, size_t size, const char *name) {
    size_t length = strlen(name);
    return size >= 2 + length && p[0] == NOTIFY && p[1] == length && !memcmp(p + 2, name, length);
}

static void on_probe(Line *line, const uint8_t *p, size_t size) {
    if (size >= 5 && p[0] == RESPONSE && probe_waits_for == ECHOED && load_u32(p + 1) == probe_id) {
        check_payload(p + 5, size - 5);
        histogram_add(&round_trips, read_at - probe_sent_at);
        probe_waits_for = BEGUN;
        /* In v1 the end of the call says that it is over; the handler need not. */
        probe_sends(line, REQUEST, wire.dialect == V1 ? "waiting" : "wait");
    } else if (probe_waits_for == BEGUN && is_notify(p, size, "running")) {
        probe_waits_for = ABORTED;
        probe_sends(line, RESET, NULL);
    } else if (probe_waits_for == ABORTED &&
               (wire.dialect == V1 ? is_error(p, size, probe_id, CANCELLED) : is_notify(p, size, "aborted"))) {
        histogram_add(&resets, read_at - probe_sent_at);
        progress++;
        probe_waits_for = ECHOED;
        if (is_over)
            probe_has_ended = true;
        else
            probe_sends(line, REQUEST, wire.method);
    } else {
        fail("the probe of resets got what it did not wait for (state %d, kind %d)", (int)probe_waits_for, size ? p[0] : 0);
    }
}

static void on_socketio(Line *line, const uint8_t *p, size_t size) {
    char prefix[32];
    if (size && p[0] == '2') {
        send_small(line, TEXT, "3", 1);
    } else if (!line->is_ready && size && p[0] == '0') {
        send_small(line, TEXT, "40", 2);
    } else if (!line->is_ready && size >= 2 && !memcmp(p, "40", 2)) {
        line->is_ready = true;
    } else if (options.mode == FANOUT && size >= 13 && !memcmp(p, "42[\"fanout\",\"", 13)) {
        check_payload(p + 13, size - 13 - 2);
        line->received++;
    } else if (size > 2 && !memcmp(p, "43", 2)) {
        uint32_t id = 0;
        size_t at = 2;
        while (at < size && p[at] >= '0' && p[at] <= '9')
            id = id * 10 + (uint32_t)(p[at++] - '0');
        uint32_t slot = slot_of(line, id);
        if (size < at + 4 || memcmp(p + at, "[\"", 2) || memcmp(p + size - 2, "\"]", 2))
            fail("an acknowledgement that is none: %.*s", (int)size, p);
        check_payload(p + at + 2, size - at - 4);
        on_answer(line, slot);
    } else {
        snprintf(prefix, sizeof prefix, "%.*s", (int)(size < 31 ? size : 31), p);
        fail("an unexpected message: %s", prefix);
    }
}

/* Sends items as far as the credit and the kernel allow. */
static void pump(Line *line) {
    static uint8_t *batch, *frame;
    static size_t frame_size;
    if (!frame) {
        uint8_t item[5] = {ITEM};
        store_u32(item + 1, STREAM_ID);
        frame = take_memory(1, MAX_HEAD + wire.size);
        batch = take_memory(1, BATCH + MAX_HEAD + wire.size);
        frame_size = write_header(frame, BINARY, 5 + wire.size, MASK);
        memcpy(frame + frame_size, item, 5);
        memcpy(frame + frame_size + 5, wire.payload, wire.size);
        apply_mask(frame + frame_size, 5 + wire.size, MASK, 0);
        frame_size += 5 + wire.size;
    }
    while (!is_over && line->balance > 0 && line->left_size == line->left_at) {
        size_t size = 0;
        for (; line->balance > 0 && size < BATCH; line->sent++) {
            memcpy(batch + size, frame, frame_size);
            size += frame_size;
            line->balance -= (int64_t)wire.size + ITEM_COST;
        }
        keep(line, batch, size);
        flush(line);
    }
}

/* What belongs to the stream of a connection; false if it is something else. */
static bool on_stream(Line *line, const uint8_t *p, size_t size) {
    if (size >= 5 && p[0] == ITEM) {
        check_payload(p + 5, size - 5);
        on_item(line);
    } else if (size == 9 && p[0] == CREDIT && load_u32(p + 1) == STREAM_ID && options.mode == UPLOAD) {
        uint32_t granted = load_u32(p + 5);
        progress++;
        line->balance += granted;
        answers += granted / (wire.size + ITEM_COST);
        pump(line);
    } else if (size >= 5 && p[0] == RESPONSE && is_over && options.mode == UPLOAD) {
        char text[32];
        snprintf(text, sizeof text, "%.*s", (int)(size - 5 < 31 ? size - 5 : 31), p + 5);
        if (strtoull(text, NULL, 10) != line->sent)
            fail("%llu items were sent, and the server has counted %s", (unsigned long long)line->sent, text);
        line->streams = false;
    } else if (is_over && options.mode == STREAM && is_error(p, size, STREAM_ID, CANCELLED)) {
        line->streams = false;
    } else {
        return false;
    }
    return true;
}

static void on_message(Line *line, int opcode, const uint8_t *p, size_t size) {
    if (opcode == PING) {
        send_small(line, PONG, p, size);
    } else if (opcode == CLOSE) {
        fail("the server closed the connection: %d %.*s", size >= 2 ? p[0] << 8 | p[1] : 1005,
             size > 2 ? (int)size - 2 : 0, size > 2 ? (const char *)p + 2 : "");
    } else if (wire.dialect == SOCKETIO && opcode == TEXT) {
        on_socketio(line, p, size);
    } else if (opcode != BINARY) {
        fail("a message of kind %d", opcode);
    } else if (wire.dialect == V1 && size >= 14 && p[0] == HELLO && !line->is_ready) {
        line->window = load_u32(p + 6);
        line->is_ready = true;
    } else if (wire.dialect == V1 && is_over && size && p[0] == GOAWAY) {
        return;
    } else if (line->streams && on_stream(line, p, size)) {
        return;
    } else if (options.mode == ABORTS && line->number == 0) {
        on_probe(line, p, size);
    } else if (options.mode == FANOUT && wire.dialect == RPC) {
        if (!is_notify(p, size, "fanout"))
            fail("a message that is not the notification awaited");
        check_payload(p + 2 + 6, size - 2 - 6);
        line->received++;
    } else if (options.mode == FANOUT) {
        check_payload(p, size);
        line->received++;
    } else if (wire.code) {
        if (size < 9 || !is_error(p, size, load_u32(p + 1), wire.code))
            fail("a message of %zu bytes that is not the error awaited", size);
        on_answer(line, slot_of(line, load_u32(p + 1)));
    } else {
        if (size < 5 || p[0] != RESPONSE)
            fail("a message of %zu bytes that is no answer", size);
        check_payload(p + 5, size - 5);
        on_answer(line, slot_of(line, load_u32(p + 1)));
    }
}

/* Waits for whatever comes and handles it. */
static void turn(int milliseconds) {
    static uint64_t quiet_since, seen;
    struct epoll_event events[128];
    int ready = epoll_wait(poller, events, 128, milliseconds);
    for (int i = 0; i < ready; i++) {
        Line *line = events[i].data.ptr;
        if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
            read_at = now();
            receive(line, MSG_DONTWAIT);
        }
        if (line->queue_size || line->wants_write)
            flush(line);
        if (line->streams && options.mode == UPLOAD)
            pump(line);
    }
    if (ready > 0 || seen != progress || !quiet_since) {
        seen = progress;
        quiet_since = now();
    } else if ((double)(now() - quiet_since) > options.patience * 1e9) {
        fail("no answer within %g s", options.patience);
    }
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void open_lines(uint32_t count) {
    lines = take_memory(count, sizeof(Line));
    for (uint32_t i = 0; i < count; i++)
        open_line(&lines[i], i, options.port, options.path);
}

/* Ends all connections in good order, as servers log those that are cut. */
static void close_lines(uint32_t count) {
    uint8_t frame[16];
    size_t size = write_small(frame, CLOSE, "\x03\xe8", 2);
    /* Bytes that are only counted are no close frame. */
    for (uint32_t i = 0; wire.dialect != READY && i < count; i++)
        if (send(lines[i].fd, frame, size, MSG_NOSIGNAL) < 0)
            fail("send: %s", strerror(errno));
    /* The server closes first (RFC 6455, 7.1.1); one that does not is not waited for. */
    uint64_t end = now() + 2000000000u;
    for (uint32_t i = 0; i < count; i++) {
        while (wire.dialect != READY && now() < end) {
            struct pollfd one = {.fd = lines[i].fd, .events = POLLIN};
            if (poll(&one, 1, 100) > 0 && recv(lines[i].fd, room, sizeof room, 0) <= 0)
                break;
        }
        close(lines[i].fd);
    }
}

/* One stream on a connection; the payload of its request is the size of its items. */
static void begin_stream(Line *line) {
    uint8_t message[MAX_HEAD + 32];
    size_t size;
    line->streams = true;
    if (wire.dialect == V1) {
        wire.flags |= options.mode == UPLOAD ? OPEN_SENDS_ITEMS : OPEN_TAKES_ITEMS;
        size = write_call(&wire, message, STREAM_ID);
    } else {
        size = write_named(message, REQUEST, STREAM_ID, wire.method);
    }
    size += (size_t)sprintf((char *)message + size, "%zu", wire.size);
    send_small(line, BINARY, message, size);
    line->balance = options.mode == UPLOAD ? line->window : 0;
    if (options.mode == UPLOAD)
        pump(line);
}

/* A stream of ours ends; one of the server's is reset. */
static void end_stream(Line *line) {
    uint8_t message[5] = {options.mode == UPLOAD ? END : RESET};
    store_u32(message + 1, STREAM_ID);
    send_small(line, BINARY, message, sizeof message);
    /* Only in v1 there is an end to wait for. */
    line->streams = wire.dialect == V1;
}

static bool is_anything_in_flight(uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (lines[i].streams)
            return true;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t k = 0; k < lines[i].slot_count; k++)
            if (lines[i].slots[k].busy)
                return true;
    return options.mode == ABORTS && !probe_has_ended;
}

/* Modes `calls`, `reset`, `stream` and `upload`: the load for some seconds, after a warm-up that does not count. */
static void run_load(void) {
    bool probes = options.mode == ABORTS, streams = options.mode == STREAM || options.mode == UPLOAD;
    uint32_t count = probes ? options.busy_connections + 1 : options.connections;
    open_lines(count);
    for (uint32_t i = 0; streams && i < count; i++)
        begin_stream(&lines[i]);
    for (uint32_t i = probes; !streams && i < count; i++) {
        give_slots(&lines[i], options.in_flight);
        flush(&lines[i]);
    }
    if (probes)
        probe_sends(&lines[0], REQUEST, wire.method);
    uint64_t start = now(), begin = start + (uint64_t)(options.warm_up * 1e9), end = begin + (uint64_t)(options.seconds * 1e9);
    while (now() < begin)
        turn(100);
    static const Histogram empty;
    round_trips = resets = empty;
    answers = 0;
    double cpu = cpu_seconds();
    begin = now();
    if (options.seconds <= 0) {
        /* Until the input ends: the load is for somebody else's measurement. */
        printf("ready\n");
        fflush(stdout);
        struct pollfd input = {.fd = 0, .events = POLLIN};
        while (!poll(&input, 1, 0))
            turn(10);
    }
    while (now() < end)
        turn(100);
    double seconds = (double)(now() - begin) / 1e9;
    cpu = cpu_seconds() - cpu;
    is_over = true;
    uint64_t counted = answers;
    Histogram *timed = take_memory(2, sizeof *timed);
    timed[0] = round_trips, timed[1] = resets;
    for (uint32_t i = 0; streams && i < count; i++)
        end_stream(&lines[i]);
    while (is_anything_in_flight(count))
        turn(100);
    close_lines(count);
    printf("{\"mode\": \"%s\", \"dialect\": \"%s\", \"connections\": %u, \"in_flight\": %u, \"payload_bytes\": %zu, "
           "\"seconds\": %.6f, \"answers\": %llu, \"answers_per_second\": %.3f, \"bytes_per_second\": %.1f, "
           "\"load_cpu_share\": %.4f, ",
           MODES[options.mode], DIALECTS[wire.dialect], count, options.in_flight, wire.size, seconds,
           (unsigned long long)counted, (double)counted / seconds, (double)counted * (double)wire.size / seconds,
           cpu / seconds);
    histogram_print(&timed[0], "round_trip_us");
    printf(", ");
    histogram_print(&timed[1], "reset_us");
    printf("}\n");
}

/* Mode `fanout`: for every line of input, one broadcast that every connection must have received once; prints ns. */
static void run_fanout(void) {
    open_lines(options.connections);
    printf("ready\n");
    fflush(stdout);
    char input[16];
    while (fgets(input, sizeof input, stdin)) {
        uint8_t trigger[16];
        size_t size = 1;
        trigger[0] = 'b';
        if (wire.dialect == RPC)
            size = write_named(trigger, NOTIFY, 0, "broadcast");
        else if (wire.dialect == SOCKETIO)
            memcpy(trigger, "42[\"broadcast\"]", size = 15);
        uint64_t begin = now(), first = 0;
        for (uint32_t i = 0; i < options.connections; i++)
            lines[i].received = 0;
        send_small(&lines[0], wire.dialect == SOCKETIO ? TEXT : BINARY, trigger, size);
        for (uint32_t have = 0; have < options.connections;) {
            turn(100);
            if (!first)
                first = now();
            progress++;
            while (have < options.connections && lines[have].received == 1)
                have++;
            if (have < options.connections && lines[have].received > 1)
                fail("connection %u got a broadcast twice", have);
        }
        uint64_t end = now();
        printf("{\"ns\": %llu, \"first_ns\": %llu}\n", (unsigned long long)(end - begin), (unsigned long long)(first - begin));
        fflush(stdout);
    }
    close_lines(options.connections);
}

/* Mode `hold`: connections with calls that are never answered, until the input ends. */
static void run_hold(void) {
    open_lines(options.connections);
    Wire held = wire;
    Wire echo = {.dialect = wire.dialect, .method = "plain", .size = 0};
    wire_init(&echo);
    bool streams = wire.flags & OPEN_TAKES_ITEMS;
    is_over = true;
    for (uint32_t i = 0; options.in_flight && i < options.connections; i++) {
        lines[i].streams = streams;
        give_slots(&lines[i], options.in_flight);
        flush(&lines[i]);
        while (lines[i].wants_write)
            turn(100);
        /* Answered once what stood before it has begun. */
        wire = echo;
        free(lines[i].slots);
        free(lines[i].queue);
        lines[i].queue_head = 0;
        give_slots(&lines[i], 1);
        lines[i].slots[0].id = options.in_flight + 1;
        uint64_t before = answers;
        flush(&lines[i]);
        while (answers == before || (streams && lines[i].received < options.in_flight))
            turn(100);
        wire = held;
    }
    printf("ready\n");
    fflush(stdout);
    char input[16];
    while (fgets(input, sizeof input, stdin))
        ;
    close_lines(options.connections);
}

/* Mode `connect`: opening handshakes, so many at a time, each connection cut when it is open; prints ns. */
static void run_connect(void) {
    char opening[1024];
    size_t size = write_opening(opening, sizeof opening, options.path);
    uint32_t width = options.connections < options.count ? options.connections : options.count;
    uint32_t begun = 0, done = 0;
    struct {
        int fd;
        bool has_sent;
        size_t got;
        char head[2048];
    } *openings = take_memory(width, sizeof *openings);
    uint64_t begin = now();
    for (uint32_t i = 0; i < width; i++)
        openings[i].fd = -1;
    for (uint32_t i = 0; done < options.count;) {
        for (; i < width && begun < options.count; i++, begun++) {
            openings[i].fd = open_socket(options.port, SOCK_NONBLOCK);
            openings[i].has_sent = false;
            openings[i].got = 0;
            struct epoll_event event = {.events = EPOLLOUT, .data.u32 = i};
            epoll_ctl(poller, EPOLL_CTL_ADD, openings[i].fd, &event);
        }
        struct epoll_event events[128];
        int ready = epoll_wait(poller, events, 128, (int)(options.patience * 1e3));
        if (ready == 0)
            fail("no answer within %g s", options.patience);
        for (int k = 0; k < ready; k++) {
            uint32_t n = events[k].data.u32;
            int fd = openings[n].fd;
            if (!openings[n].has_sent) {
                if (send(fd, opening, size, MSG_NOSIGNAL) != (ssize_t)size)
                    fail("the opening could not be sent: %s", strerror(errno));
                openings[n].has_sent = true;
                struct epoll_event event = {.events = EPOLLIN, .data.u32 = n};
                epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
                continue;
            }
            ssize_t got = recv(fd, openings[n].head + openings[n].got, sizeof openings[n].head - openings[n].got, 0);
            if (got <= 0)
                fail("no answer to the opening: %s", got ? strerror(errno) : "the server hung up");
            openings[n].got += (size_t)got;
            if (!check_opening(openings[n].head, openings[n].got))
                continue;
            /* Cut: otherwise this side runs out of ports, which wait for a minute after a close. */
            struct linger at_once = {.l_onoff = 1};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
            close(fd);
            done++;
            if (begun < options.count) {
                begun++;
                openings[n].fd = open_socket(options.port, SOCK_NONBLOCK);
                openings[n].has_sent = false;
                openings[n].got = 0;
                struct epoll_event event = {.events = EPOLLOUT, .data.u32 = n};
                epoll_ctl(poller, EPOLL_CTL_ADD, openings[n].fd, &event);
            }
        }
    }
    double seconds = (double)(now() - begin) / 1e9;
    printf("{\"mode\": \"connect\", \"connections\": %u, \"seconds\": %.6f, \"per_second\": %.3f}\n", options.count, seconds,
           options.count / seconds);
}

/* Mode `percentiles`: of the nanoseconds in its input, as the other modes would give them. */
static void run_percentiles(void) {
    unsigned long long ns;
    while (scanf("%llu", &ns) == 1)
        histogram_add(&round_trips, ns);
    printf("{");
    histogram_print(&round_trips, "round_trip_us");
    printf("}\n");
}

static int index_of(const char *const *names, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (!strcmp(names[i], name))
            return i;
    fail("%s is none that is known", name);
}

int main(int argc, char **argv) {
    static const struct option known[] = {
        {"dialect", 1, 0, 'd'}, {"port", 1, 0, 'p'},      {"path", 1, 0, 'P'},    {"method", 1, 0, 'm'},
        {"size", 1, 0, 's'},    {"connections", 1, 0, 'c'}, {"in-flight", 1, 0, 'f'}, {"seconds", 1, 0, 't'},
        {"warm-up", 1, 0, 'w'}, {"busy", 1, 0, 'b'},      {"count", 1, 0, 'n'},   {"patience", 1, 0, 'x'},
        {"timeout", 1, 0, 'o'}, {"code", 1, 0, 'e'},      {"window", 1, 0, 'W'}, {"streams", 0, 0, 'S'}, {0}};
    wire.method = "plain";
    wire.size = 32;
    wire.window = WINDOW;
    int letter;
    while ((letter = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (letter) {
        case 'd': wire.dialect = (Dialect)index_of(DIALECTS, DIALECT_COUNT, optarg); break;
        case 'p': options.port = (uint16_t)atoi(optarg); break;
        case 'P': options.path = optarg; break;
        case 'm': wire.method = optarg; break;
        case 's': wire.size = (size_t)atol(optarg); break;
        case 'c': options.connections = (uint32_t)atol(optarg); break;
        case 'f': options.in_flight = (uint32_t)atol(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        case 'w': options.warm_up = atof(optarg); break;
        case 'b': options.busy_connections = (uint32_t)atol(optarg); break;
        case 'n': options.count = (uint32_t)atol(optarg); break;
        case 'o': wire.timeout = (uint32_t)atol(optarg); break;
        case 'e': wire.code = (uint8_t)atoi(optarg); break;
        case 'W': wire.window = (uint32_t)atol(optarg); break;
        case 'S': wire.flags |= OPEN_TAKES_ITEMS; break;
        case 'x': options.patience = atof(optarg); break;
        default: return 2;
        }
    }
    if (optind + 1 != argc || strlen(wire.method) > 255)
        return fprintf(stderr, "usage: load calls|reset|stream|upload|fanout|hold|connect|percentiles --port N ...\n"), 2;
    options.mode = (Mode)index_of(MODES, MODE_COUNT, argv[optind]);
    if (!options.port && options.mode != PERCENTILES)
        fail("which port?");
    if (options.mode == ABORTS && ((wire.dialect != RPC && wire.dialect != V1) || wire.size > 1024))
        fail("only the dialects rpc and v1 know resets, and the probe's payload is small");
    if (options.mode == UPLOAD && wire.dialect != V1)
        fail("only the dialect v1 has items towards the server");
    if ((wire.timeout || wire.code || wire.flags) && wire.dialect != V1)
        fail("only the dialect v1 has options and errors");
    wire_init(&wire);
    poller = epoll_create1(0);
    switch (options.mode) {
    case CALLS:
    case ABORTS:
    case STREAM:
    case UPLOAD: run_load(); break;
    case FANOUT: run_fanout(); break;
    case HOLD: run_hold(); break;
    case CONNECT: run_connect(); break;
    default: run_percentiles();
    }
    return 0;
}
