/* A fake OpenAI-compatible upstream that is never the bottleneck (loopback only).
 *
 *     upstream PORT
 *
 * POST with "stream": true   answers chat.completion.chunk events; anything else is a 400.
 * GET /stats                 counters as JSON: streams begun, finished, left by the client; open now.
 *
 * The request's "model" names the stream's shape, for example bench-c500-d20000-mstamp:
 *     cN   content chunks (100)
 *     dN   microseconds between two writes (0: as fast as the socket takes them)
 *     bN   content chunks in one TCP write (1)
 *     wN   characters of text in a chunk (5)
 *     h1   hold: stay open and silent after the last chunk
 *     mX   the text: plain; mix (quotes, escapes, emoji, "data:"); stamp ('~' and 12 hex digits:
 *          CLOCK_MONOTONIC in ns when the chunk was written, padded to wN characters)
 *
 * Every event of a shape is built once, as an HTTP chunk of its own, when the shape is first seen;
 * a write copies such buffers and sends. All streams of one shape share them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STAMP 13 /* '~' and twelve hex digits */
#define NS 1000000000ull

typedef struct {
    char *bytes;
    size_t len;
} piece;

typedef struct shape {
    char model[128];
    int usage, stamped, hold;
    long chunks, batch;
    uint64_t delay;              /* ns between two writes */
    piece head, tail, *events;   /* events[i % kinds] is content chunk i */
    long kinds;
    size_t stamp_at;             /* where the stamp begins in a stamped event */
    struct shape *next;
} shape;

typedef struct conn {
    int fd, streaming, blocked, ready;
    const shape *shape;
    long sent;                   /* content chunks written; -1: the head is still due */
    char *in, *out;
    size_t in_len, in_cap, out_len, out_off, out_cap;
    uint64_t due;
    int heap_at;                 /* -1: no timer */
    struct conn *prev, *next;    /* the ring of connections that may write now */
    struct conn *next_dead;
} conn;

static int poller;
static shape *shapes;
static conn ring = {.prev = &ring, .next = &ring};
static conn *dead;
static struct {
    unsigned long long streams, finished, aborted, open, chunks;
} stats;

static const char HEAD[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    "Cache-Control: no-cache\r\nx-request-id: req_bench\r\nTransfer-Encoding: chunked\r\n\r\n";

/* Already escaped for JSON; UTF-8 where a server would send UTF-8. */
static const char *const MIX[] = {
    "Once", " upon", " a \\\"time\\\"", ",\\n\\n", "* caf\xc3\xa9", " fa\xc3\xa7""ade", "\xe4\xb8\x96\xe7\x95\x8c",
    " \xf0\x9f\xa6\x8a", "C:\\\\dir", "\\t<i>", "&lt;", "</script>", "\\u00fcber", " \\ud83d\\udca1",
    "data: {}", "\\u2028", "\\r\\n", " id: 7", "\\u0001", " end"};

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

/* ---- timers: a binary heap on `due` ---- */
static conn **heap;
static int heap_n, heap_cap;

static void heap_place(conn *c, int at) {
    heap[at] = c;
    c->heap_at = at;
}

static void heap_sift(int at) {
    conn *c = heap[at];
    for (; at && heap[(at - 1) / 2]->due > c->due; at = (at - 1) / 2) heap_place(heap[(at - 1) / 2], at);
    for (int kid; (kid = 2 * at + 1) < heap_n; at = kid) {
        if (kid + 1 < heap_n && heap[kid + 1]->due < heap[kid]->due) kid++;
        if (heap[kid]->due >= c->due) break;
        heap_place(heap[kid], at);
    }
    heap_place(c, at);
}

static void heap_add(conn *c) {
    if (heap_n == heap_cap) heap = realloc(heap, (size_t)(heap_cap = heap_cap ? 2 * heap_cap : 1024) * sizeof *heap);
    heap_place(c, heap_n++);
    heap_sift(c->heap_at);
}

static void heap_remove(conn *c) {
    int at = c->heap_at;
    if (at < 0) return;
    c->heap_at = -1;
    conn *last = heap[--heap_n];
    if (last == c) return;
    heap_place(last, at);
    heap_sift(at);
}

/* ---- the ring of connections that may write at once ---- */
static void ring_add(conn *c) {
    if (c->ready) return;
    c->ready = 1;
    c->prev = ring.prev, c->next = &ring;
    ring.prev->next = c, ring.prev = c;
}

static void ring_remove(conn *c) {
    if (!c->ready) return;
    c->ready = 0;
    c->prev->next = c->next, c->next->prev = c->prev;
}

/* ---- shapes ---- */
static piece chunk_of(const char *format, ...) {
    char body[70000], *bytes;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(body, sizeof body, format, args);
    va_end(args);
    int len = asprintf(&bytes, "%x\r\n%s\r\n", (unsigned)n, body);
    return (piece){bytes, (size_t)len};
}

static piece joined(const piece *parts, int n) {
    piece whole = {NULL, 0};
    for (int i = 0; i < n; i++) {
        whole.bytes = realloc(whole.bytes, whole.len + parts[i].len + 1);
        memcpy(whole.bytes + whole.len, parts[i].bytes, parts[i].len);
        whole.len += parts[i].len;
    }
    return whole;
}

static long knob(const char *model, char letter, long otherwise) {
    for (const char *p = model; (p = strchr(p, '-')); p++)
        if (p[1] == letter && p[2] >= '0' && p[2] <= '9') return atol(p + 2);
    return otherwise;
}

static piece event(const char *model, const char *choices, const char *usage) {
    return chunk_of(
        "data: {\"id\":\"chatcmpl-BenchBenchBenchBenchBenchBe\",\"object\":\"chat.completion.chunk\","
        "\"created\":1700000000,\"model\":\"%s\",\"service_tier\":\"default\","
        "\"system_fingerprint\":\"fp_0123456789\",\"choices\":[%s],\"usage\":%s}\n\n",
        model, choices, usage);
}

static piece content(const char *model, const char *text) {
    char choice[66000];
    snprintf(choice, sizeof choice,
             "{\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":null,\"finish_reason\":null}", text);
    return event(model, choice, "null");
}

static void build_texts(shape *s) {
    long width = knob(s->model, 'w', 5);
    if (width < 1 || width > 60000) width = 5;
    if (strstr(s->model, "-mmix")) {
        s->kinds = sizeof MIX / sizeof *MIX;
        s->events = calloc((size_t)s->kinds, sizeof *s->events);
        for (long i = 0; i < s->kinds; i++) s->events[i] = content(s->model, MIX[i]);
        return;
    }
    s->stamped = strstr(s->model, "-mstamp") != NULL;
    if (s->stamped && width < STAMP) width = STAMP;
    char *text = malloc((size_t)width + 1);
    memset(text, 'a', (size_t)width);
    text[0] = s->stamped ? '~' : ' ', text[width] = 0;
    s->kinds = 1;
    s->events = malloc(sizeof *s->events);
    s->events[0] = content(s->model, text);
    if (s->stamped) s->stamp_at = (size_t)((char *)memchr(s->events[0].bytes, '~', s->events[0].len) - s->events[0].bytes);
    free(text);
}

static const shape *shape_of(const char *model, int usage) {
    for (shape *s = shapes; s; s = s->next)
        if (s->usage == usage && !strcmp(s->model, model)) return s;
    shape *s = calloc(1, sizeof *s);
    snprintf(s->model, sizeof s->model, "%s", model);
    s->usage = usage;
    s->chunks = knob(model, 'c', 100);
    s->delay = (uint64_t)knob(model, 'd', 0) * 1000;
    s->batch = knob(model, 'b', 1) > 0 ? knob(model, 'b', 1) : 1;
    s->hold = knob(model, 'h', 0) == 1;
    build_texts(s);
    piece head[] = {{(char *)HEAD, sizeof HEAD - 1},
                    event(model, "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},"
                                 "\"logprobs\":null,\"finish_reason\":null}", "null")};
    s->head = joined(head, 2);
    char counted[120];
    snprintf(counted, sizeof counted, "{\"prompt_tokens\":9,\"completion_tokens\":%ld,\"total_tokens\":%ld}",
             s->chunks, s->chunks + 9);
    piece end[] = {event(model, "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}", "null"),
                   usage ? event(model, "", counted) : (piece){"", 0},
                   chunk_of("data: [DONE]\n\n"),
                   {"0\r\n\r\n", 5}};
    s->tail = joined(end, 4);
    s->next = shapes, shapes = s;
    return s;
}

/* ---- writing ---- */
static void put(conn *c, const char *bytes, size_t len) {
    if (c->out_len + len > c->out_cap) c->out = realloc(c->out, c->out_cap = 2 * (c->out_len + len));
    memcpy(c->out + c->out_len, bytes, len);
    c->out_len += len;
}

static void put_stamp(char *at) {
    static const char hex[] = "0123456789abcdef";
    uint64_t t = now_ns();
    for (int i = STAMP - 1; i > 0; i--, t >>= 4) at[i] = hex[t & 15];
}

static void drop(conn *c) {
    stats.open--;
    stats.aborted += (unsigned)c->streaming;
    ring_remove(c);
    heap_remove(c);
    close(c->fd);
    c->fd = -1;
    c->next_dead = dead, dead = c;
}

static void bury(void) {
    while (dead) {
        conn *c = dead;
        dead = c->next_dead;
        free(c->in), free(c->out), free(c);
    }
}

/* Sends what `out` holds; 1: all of it went, 0: the socket is full, or gone. */
static int flush(conn *c) {
    while (c->out_off < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) {
            c->blocked = 1;
            ring_remove(c);
            return 0;
        }
        if (n < 0) {
            drop(c);
            return 0;
        }
        c->out_off += (size_t)n;
    }
    c->out_len = c->out_off = 0;
    return 1;
}

static void schedule(conn *c) {
    if (c->shape->delay == 0 || c->sent == c->shape->chunks) {
        ring_add(c);
        return;
    }
    uint64_t now = now_ns();
    ring_remove(c);
    c->due += c->shape->delay;
    if (c->due < now) c->due = now; /* late: no burst to catch up */
    heap_add(c);
}

static void put_next(conn *c) {
    const shape *s = c->shape;
    if (c->sent < 0) {
        put(c, s->head.bytes, s->head.len);
        c->sent = 0;
        c->due = now_ns();
        return;
    }
    if (c->sent == s->chunks) {
        put(c, s->tail.bytes, s->tail.len);
        c->streaming = 0;
        stats.finished++;
        ring_remove(c);
        return;
    }
    for (long left = s->batch; left && c->sent < s->chunks; left--, c->sent++, stats.chunks++) {
        const piece *e = &s->events[c->sent % s->kinds];
        put(c, e->bytes, e->len);
        if (s->stamped) put_stamp(c->out + c->out_len - e->len + s->stamp_at);
    }
}

/* One write of a stream: what was left over, or the next. */
static void step(conn *c) {
    if (c->out_len == 0) put_next(c);
    if (!flush(c) || !c->streaming) return;
    if (c->shape->hold && c->sent == c->shape->chunks) ring_remove(c);
    else schedule(c);
}

/* ---- requests ---- */
static void reply(conn *c, const char *status, const char *body) {
    char head[200];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                     status, strlen(body));
    put(c, head, (size_t)n);
    put(c, body, strlen(body));
    flush(c);
}

/* Where the value of a JSON key begins, or NULL. Good enough for the bodies that clients send us. */
static const char *value_of(const char *json, const char *key) {
    const char *p = strstr(json, key);
    if (!p) return NULL;
    p += strlen(key);
    return p + strspn(p, " :");
}

static void answer(conn *c, const char *head, const char *body) {
    if (!strncmp(head, "GET /stats", 10)) {
        char text[300];
        snprintf(text, sizeof text,
                 "{\"streams\": %llu, \"finished\": %llu, \"aborted\": %llu, \"open\": %llu, \"chunks\": %llu}",
                 stats.streams, stats.finished, stats.aborted, stats.open, stats.chunks);
        reply(c, "200 OK", text);
        return;
    }
    const char *stream = value_of(body, "\"stream\""), *model = value_of(body, "\"model\"");
    if (!stream || *stream != 't' || !model || *model != '"') {
        reply(c, "400 Bad Request", "{\"error\": {\"message\": \"a model, and stream: true, please\"}}");
        return;
    }
    char name[128];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(model + 1, "\""), model + 1);
    const char *usage = value_of(body, "\"include_usage\"");
    c->shape = shape_of(name, usage && *usage == 't');
    c->sent = -1;
    c->streaming = 1;
    stats.streams++;
    step(c);
}

static void parse(conn *c) {
    while (c->fd >= 0 && !c->streaming && c->out_len == 0) {
        c->in[c->in_len] = 0;
        char *end = strstr(c->in, "\r\n\r\n");
        if (!end) return;
        char *length = strcasestr(c->in, "\r\ncontent-length:");
        size_t head_len = (size_t)(end - c->in) + 4;
        size_t body_len = length && length < end ? strtoul(length + 17, NULL, 10) : 0, whole = head_len + body_len;
        if (c->in_len < whole) return;
        char *request = strndup(c->in, whole);
        memmove(c->in, c->in + whole, c->in_len -= whole);
        answer(c, request, request + head_len);
        free(request);
    }
}

static void readable(conn *c) {
    for (;;) {
        if (c->in_cap - c->in_len < 8192) c->in = realloc(c->in, c->in_cap = 2 * c->in_cap + 16384);
        ssize_t n = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len - 1, 0);
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) {
            drop(c);
            return;
        }
        c->in_len += (size_t)n;
    }
    parse(c);
}

static void accept_all(int listener) {
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        conn *c = calloc(1, sizeof *c);
        c->fd = fd, c->heap_at = -1;
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
        stats.open++;
    }
}

static void on_event(conn *c, uint32_t events) {
    if (c->fd < 0) return;
    if (events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) {
        drop(c);
        return;
    }
    if (events & EPOLLOUT && c->blocked) {
        c->blocked = 0;
        if (c->streaming) ring_add(c);
        else if (flush(c)) parse(c);
    }
    if (c->fd >= 0 && events & EPOLLIN) readable(c);
}

/* How long to wait for the sockets; NULL: for ever. Exact to the ns, so that streams do not fall into step. */
static const struct timespec *until_due(struct timespec *t) {
    *t = (struct timespec){0, 0};
    if (ring.next != &ring) return t;
    if (!heap_n) return NULL;
    uint64_t now = now_ns(), wait = heap[0]->due > now ? heap[0]->due - now : 0;
    *t = (struct timespec){(time_t)(wait / NS), (long)(wait % NS)};
    return t;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: upstream PORT\n");
        return 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) {
        perror("upstream");
        return 1;
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, events[512];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        struct timespec t;
        int n = epoll_pwait2(poller, events, 512, until_due(&t), NULL);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr) on_event(events[i].data.ptr, events[i].events);
            else accept_all(listener);
        }
        for (uint64_t now = now_ns(); heap_n && heap[0]->due <= now;) {
            conn *c = heap[0];
            heap_remove(c);
            step(c);
        }
        for (int turn = 0; turn < 8 && ring.next != &ring; turn++)
            for (conn *c = ring.next, *following; c != &ring; c = following) {
                following = c->next;
                step(c);
                if (c->fd >= 0 && !c->streaming) parse(c);
            }
        bury();
    }
}
