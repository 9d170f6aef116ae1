/* A load client for streams of server-sent events (loopback only); prints one JSON object.
 *
 *     load --port P --path /chat --body JSON [--header 'K: V']… [--key text] [--done '"done"']
 *          [--n 1] [--total N] [--ramp-ms 0] [--hold-s 0] [--timeout-s 60] [--warm-ms 0]
 *
 * Opens n POST streams over ramp-ms, and a new one on the same connection when one ends, total in
 * all. SIGTERM stops it like hold-s. `key` is the JSON key whose string is a frame's text; `done` the bytes that, in a data line
 * without text, end a good stream; a data line with "error" ends a bad one. hold-s stops whatever
 * is open and calls that a good end of the measurement. Latencies of the first warm-ms are not counted.
 *
 * ok: streams with status 200, a whole body and one done, last. Times are microseconds.
 * hash: the sum over ok streams of the FNV-1a of their text, decoded and as UTF-8, without stamps.
 * A stamp in the text ('~' and 12 hex digits, see upstream.c) makes a token latency, write to read.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STAMP 13
#define MS 1000000ull
typedef uint64_t u64;

static u64 now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000 * MS + (u64)t.tv_nsec;
}

/* ---- a histogram with 32 buckets to each power of two: quantiles within 3 % ---- */
typedef struct {
    u64 n, max, bucket[64 * 32];
} histogram;

static void record(histogram *h, u64 v) {
    int e = v < 32 ? 0 : 63 - __builtin_clzll(v);
    h->n++;
    if (v > h->max) h->max = v;
    h->bucket[e ? (e - 4) * 32 + (int)(v >> (e - 5) & 31) : (int)v]++;
}

static double quantile(const histogram *h, double q) {
    u64 wanted = (u64)(q * (double)h->n), seen = 0;
    for (int i = 0; h->n && i < 64 * 32; i++)
        if ((seen += h->bucket[i]) > wanted)
            return i < 32 ? i : (double)((u64)(32 + i % 32) << (i / 32 - 1)) * (1 + 1.0 / 64);
    return (double)h->max;
}

static void print_histogram(const char *name, const histogram *h) {
    printf(", \"%s\": {\"n\": %llu, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"max\": %.1f}", name,
           (unsigned long long)h->n, quantile(h, .5) / 1e3, quantile(h, .9) / 1e3, quantile(h, .99) / 1e3,
           (double)h->max / 1e3);
}

/* ---- one stream ---- */
enum { OFF, CONNECTING, HEAD, BODY, SIZE, DATA, DATA_END, TRAILER };

typedef struct {
    int fd, state, reused, status, closes, began, terminals, failed, late;
    long length;                 /* Content-Length left, -1: none */
    size_t left, trailer;        /* bytes left in this HTTP chunk; length of this trailer line */
    char *line;                  /* the head, later an unfinished SSE line */
    size_t line_len, line_cap;
    u64 opened, hash, chars;
} conn;

static const char *path = "/", *body = "", *key = "text", *done = "\"done\"";
static char headers[2000], needle[80];
static int port, n_conns = 1, poller;
static long total, started, ended, open_now, open_max;
static u64 ramp, hold, timeout = 60000 * MS, warm, begin;
static char *request;
static size_t request_len;
static histogram ttft, token, whole;
static struct {
    u64 ok, bad, http_errors, no_terminal, after_terminal, errors, first, frames, tokens, chars, hash, bytes;
} sum;
static char trouble[200];
static volatile sig_atomic_t is_stopped;

static void stop_now(int signal) {
    (void)signal;
    is_stopped = 1;
}

static unsigned hex4(const char *p) {
    unsigned v = 0;
    for (int i = 0; i < 4; i++) v = v << 4 | (unsigned)(p[i] <= '9' ? p[i] - '0' : (p[i] | 32) - 'a' + 10);
    return v;
}

static u64 hash_point(u64 h, unsigned p) {
    unsigned char u[4];
    int n = 0;
    if (p < 0x80) u[n++] = (unsigned char)p;
    else {
        if (p < 0x800) u[n++] = (unsigned char)(0xc0 | p >> 6);
        else {
            if (p < 0x10000) u[n++] = (unsigned char)(0xe0 | p >> 12);
            else u[n++] = (unsigned char)(0xf0 | p >> 18), u[n++] = (unsigned char)(0x80 | (p >> 12 & 63));
            u[n++] = (unsigned char)(0x80 | (p >> 6 & 63));
        }
        u[n++] = (unsigned char)(0x80 | (p & 63));
    }
    for (int i = 0; i < n; i++) h = (h ^ u[i]) * 1099511628211ull;
    return h;
}

/* One escape of a JSON string at p ('\\' first); its length, and the code point it stands for. */
static size_t unescape(const char *p, const char *end, unsigned *point) {
    static const char names[] = "nrtbf", means[] = "\n\r\t\b\f";
    const char *named = strchr(names, p[1]);
    if (p[1] != 'u' || end - p < 6) {
        *point = named && *named ? (unsigned char)means[named - names] : (unsigned char)p[1];
        return 2;
    }
    *point = hex4(p + 2);
    if (*point < 0xd800 || *point > 0xdbff || end - p < 12 || p[6] != '\\' || p[7] != 'u') return 6;
    *point = 0x10000 + ((*point - 0xd800) << 10) + (hex4(p + 8) - 0xdc00);
    return 12;
}

/* A frame's text: p is behind the opening quote. */
static void on_text(conn *c, const char *p, const char *end, u64 now) {
    while (p < end && *p != '"') {
        if (*p == '~' && end - p > STAMP) {
            u64 sent = (u64)hex4(p + 1) << 32 | (u64)hex4(p + 5) << 16 | hex4(p + 9);
            sum.tokens++;
            if (now >= begin + warm) record(&token, (now - sent) & 0xffffffffffffull);
            p += STAMP, c->chars += STAMP;
        } else if (*p == '\\' && end - p > 1) {
            unsigned point;
            p += unescape(p, end, &point);
            c->hash = hash_point(c->hash, point);
            c->chars++;
        } else {
            c->hash = (c->hash ^ (unsigned char)*p) * 1099511628211ull;
            c->chars += (*p & 0xc0) != 0x80;
            p++;
        }
    }
}

static void on_line(conn *c, const char *p, size_t n, u64 now) {
    if (n && p[n - 1] == '\r') n--;
    if (n < 5 || memcmp(p, "data:", 5)) return;
    if (c->terminals) c->late = 1;
    const char *end = p + n, *text = memmem(p, n, needle, strlen(needle));
    if (text) {
        text += strlen(needle);
        while (text < end && (*text == ' ' || *text == ':')) text++;
        if (end - text < 2 || *text != '"' || text[1] == '"') return; /* null, or empty: no token */
        if (!c->began) c->began = 1, sum.first++, record(&ttft, now - c->opened);
        sum.frames++;
        on_text(c, text + 1, end, now);
    } else if (memmem(p, n, done, strlen(done))) c->terminals++;
    else if (memmem(p, n, "\"error\"", 7)) c->terminals++, c->failed = 1;
}

static void keep(conn *c, const char *p, size_t n) {
    if (c->line_len + n > c->line_cap) c->line = realloc(c->line, c->line_cap = 2 * (c->line_len + n));
    memcpy(c->line + c->line_len, p, n);
    c->line_len += n;
}

static void on_sse(conn *c, const char *p, size_t n, u64 now) {
    for (const char *nl; (nl = memchr(p, '\n', n)); n -= (size_t)(nl - p) + 1, p = nl + 1) {
        if (c->line_len) {
            keep(c, p, (size_t)(nl - p));
            on_line(c, c->line, c->line_len, now);
            c->line_len = 0;
        } else on_line(c, p, (size_t)(nl - p), now);
    }
    keep(c, p, n);
}

/* ---- HTTP ---- */
static void open_stream(conn *c);

static void finish(conn *c, int is_whole) {
    int good = is_whole && c->status == 200 && c->terminals == 1 && !c->failed && !c->late;
    ended++, open_now--;
    sum.chars += c->chars;
    if (good) sum.ok++, sum.hash += c->hash, record(&whole, now_ns() - c->opened);
    else {
        sum.bad++, sum.errors += (u64)c->failed, sum.after_terminal += (u64)c->late;
        if (c->status != 200) sum.http_errors++;
        else if (!c->terminals) sum.no_terminal++;
    }
    c->state = OFF;
    if (!is_whole || c->closes) close(c->fd), c->fd = -1;
    if (started < total) open_stream(c);
}

static void fail(conn *c, const char *doing, int error) {
    snprintf(trouble, sizeof trouble, "%s: %s", doing, strerror(error));
    finish(c, 0);
}

static void ask(conn *c) {
    c->state = HEAD;
    if (send(c->fd, request, request_len, MSG_NOSIGNAL) != (ssize_t)request_len) fail(c, "send", errno);
}

static void open_stream(conn *c) {
    *c = (conn){.fd = c->fd, .line = c->line, .line_cap = c->line_cap, .reused = c->fd >= 0, .length = -1,
                .hash = 14695981039346656037ull, .opened = now_ns()};
    started++;
    if (++open_now > open_max) open_max = open_now;
    if (c->reused) {
        ask(c);
        return;
    }
    int yes = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->state = CONNECTING;
    struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) fail(c, "connect", errno);
    else epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
}

static void connected(conn *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        fail(c, "connect", error);
        return;
    }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
    ask(c);
}

static void on_head(conn *c) {
    keep(c, "", 1);
    const char *length = strcasestr(c->line, "\r\ncontent-length:");
    c->status = atoi(c->line + 9);
    c->closes = strcasestr(c->line, "\r\nconnection: close") != NULL;
    c->length = length ? atol(length + 17) : -1;
    c->state = strcasestr(c->line, "\r\ntransfer-encoding: chunked") ? SIZE : BODY;
    c->closes |= c->state == BODY && !length;
    c->line_len = 0;
}

/* Takes what one read brought; 1 when the response is whole. */
static int feed(conn *c, const char *p, size_t n, u64 now) {
    const char *end = p + n;
    while (p < end) {
        size_t have = (size_t)(end - p);
        switch (c->state) {
        case HEAD:
            keep(c, p++, 1);
            if (c->line_len > 15 && !memcmp(c->line + c->line_len - 4, "\r\n\r\n", 4)) on_head(c);
            if (c->state == BODY && c->length == 0) return 1;
            break;
        case BODY:
            if (c->length >= 0 && have > (size_t)c->length) have = (size_t)c->length;
            on_sse(c, p, have, now);
            p += have;
            if (c->length >= 0 && !(c->length -= (long)have)) return 1;
            break;
        case SIZE:
            if (*p == '\n') c->state = c->left ? DATA : TRAILER, c->trailer = 0;
            else if (*p != '\r') c->left = c->left << 4 | (unsigned)(*p <= '9' ? *p - '0' : (*p | 32) - 'a' + 10);
            p++;
            break;
        case DATA:
            if (have > c->left) have = c->left;
            on_sse(c, p, have, now);
            p += have;
            if (!(c->left -= have)) c->state = DATA_END;
            break;
        case DATA_END:
            if (*p++ == '\n') c->state = SIZE;
            break;
        case TRAILER:
            if (*p == '\n' && !c->trailer) return 1;
            c->trailer = *p == '\n' ? 0 : c->trailer + (*p != '\r');
            p++;
            break;
        default:
            return 0;
        }
    }
    return 0;
}

static void readable(conn *c) {
    static char buffer[1 << 18];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    u64 now = now_ns();
    if (n < 0 && errno == EAGAIN) return;
    if (n > 0) {
        sum.bytes += (u64)n;
        if (c->state != OFF && feed(c, buffer, (size_t)n, now)) finish(c, 1);
        return;
    }
    if (c->state == OFF || (c->reused && c->state == HEAD && !c->line_len)) { /* an idle connection ended */
        int again = c->state == HEAD;
        close(c->fd), c->fd = -1;
        if (again) started--, open_now--, open_stream(c);
        return;
    }
    if (n < 0) snprintf(trouble, sizeof trouble, "recv: %s", strerror(errno));
    finish(c, n == 0 && c->state == BODY && c->length < 0);
}

static int option(const char *name, const char *value) {
    if (!strcmp(name, "--port")) port = atoi(value);
    else if (!strcmp(name, "--path")) path = value;
    else if (!strcmp(name, "--body")) body = value;
    else if (!strcmp(name, "--key")) key = value;
    else if (!strcmp(name, "--done")) done = value;
    else if (!strcmp(name, "--n")) n_conns = atoi(value);
    else if (!strcmp(name, "--total")) total = atol(value);
    else if (!strcmp(name, "--ramp-ms")) ramp = (u64)(atof(value) * MS);
    else if (!strcmp(name, "--hold-s")) hold = (u64)(atof(value) * 1000 * MS);
    else if (!strcmp(name, "--timeout-s")) timeout = (u64)(atof(value) * 1000 * MS);
    else if (!strcmp(name, "--warm-ms")) warm = (u64)(atof(value) * MS);
    else if (!strcmp(name, "--header") && strlen(headers) + strlen(value) + 3 < sizeof headers)
        strcat(strcat(headers, value), "\r\n");
    else return 0;
    return 1;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i += 2)
        if (i + 1 == argc || !option(argv[i], argv[i + 1])) {
            fprintf(stderr, "load: %s is no option, or lacks its value; see the top of load.c\n", argv[i]);
            return 2;
        }
    if (total < n_conns) total = n_conns;
    snprintf(needle, sizeof needle, "\"%s\"", key);
    request_len = (size_t)asprintf(&request,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\n"
        "%sContent-Length: %zu\r\n\r\n%s", path, port, headers, strlen(body), body);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    signal(SIGTERM, stop_now);
    poller = epoll_create1(EPOLL_CLOEXEC);
    conn *conns = calloc((size_t)n_conns, sizeof *conns);
    struct epoll_event events[512];
    u64 stop = begin = now_ns();
    stop += hold && hold < timeout ? hold : timeout;
    int launched = 0;
    for (u64 now = begin; now < stop && ended < total && !is_stopped; now = now_ns()) {
        while (launched < n_conns && now >= begin + ramp / (u64)n_conns * (u64)launched) {
            conns[launched].fd = -1;
            open_stream(&conns[launched++]);
        }
        int n = epoll_wait(poller, events, 512, launched < n_conns ? 1 : 50);
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            if (c->fd < 0) continue;
            if (c->state == CONNECTING) connected(c);
            else readable(c);
        }
    }
    u64 wall = now_ns() - begin;
    for (int i = 0; i < launched; i++)
        if (conns[i].state != OFF) sum.chars += conns[i].chars; /* still open at the end */
    printf("{\"started\": %ld, \"ok\": %llu, \"bad\": %llu, \"http_errors\": %llu, \"no_terminal\": %llu, "
           "\"after_terminal\": %llu, \"errors\": %llu, \"open_now\": %ld, \"open_max\": %ld, \"got_first\": %llu, "
           "\"timed_out\": %s, \"wall_s\": %.4f, \"frames\": %llu, \"tokens\": %llu, \"chars\": %llu, "
           "\"hash\": \"%016llx\", \"bytes\": %llu, \"trouble\": \"%s\"",
           started, (unsigned long long)sum.ok, (unsigned long long)sum.bad, (unsigned long long)sum.http_errors,
           (unsigned long long)sum.no_terminal, (unsigned long long)sum.after_terminal,
           (unsigned long long)sum.errors, open_now, open_max, (unsigned long long)sum.first,
           ended < total && !hold && !is_stopped ? "true" : "false", (double)wall / 1e9, (unsigned long long)sum.frames,
           (unsigned long long)sum.tokens, (unsigned long long)sum.chars, (unsigned long long)sum.hash,
           (unsigned long long)sum.bytes, trouble);
    print_histogram("ttft_us", &ttft);
    print_histogram("token_us", &token);
    print_histogram("whole_us", &whole);
    printf("}\n");
    return 0;
}
