/* A policy engine for one deployable as it would be in C: what the memory of ours is compared with.
 *
 * peer CIB-FILE PORT USER KEY-FILE: calculates one decision, opens three ssh sessions to 127.0.0.1:PORT (one for each guest), holds
 * a curl handle for the infrastructure's API, writes "ready" and then idles in libqb's loop with a timer that keeps
 * the sessions alive. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <curl/curl.h>
#include <glib.h>
#include <libssh2.h>
#include <libxslt/xslt.h>
#include <qb/qbloop.h>

#define SESSIONS 3
#define SECOND (1000ULL * 1000 * 1000)

int pcloud_init(void);
int pcloud_schedule(const char *text, size_t length, int options, char **answer, size_t *size);
void pcloud_free(char *answer);

static LIBSSH2_SESSION *sessions[SESSIONS];
static qb_loop_t *loop;

static void fail(const char *what)
{
    fprintf(stderr, "peer: %s failed\n", what);
    exit(1);
}

static LIBSSH2_SESSION *open_session(int port, const char *user, const char *key)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    LIBSSH2_SESSION *session = libssh2_session_init();
    int descriptor = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address, sizeof(address)) != 0) {
        fail("connect");
    }
    if (session == NULL || libssh2_session_handshake(session, descriptor) != 0) {
        fail("ssh handshake");
    }
    if (libssh2_userauth_publickey_fromfile(session, user, NULL, key, "") != 0) {
        fail("ssh authentication");
    }
    libssh2_keepalive_config(session, 1, 15);
    return session;
}

static void keep_alive(void *data)
{
    qb_loop_timer_handle handle;
    int seconds;

    for (int i = 0; i < SESSIONS; i++) {
        libssh2_keepalive_send(sessions[i], &seconds);
    }
    qb_loop_timer_add(loop, QB_LOOP_MED, 3 * SECOND, data, keep_alive, &handle);
}

int main(int argc, char **argv)
{
    gchar *cib = NULL;
    gsize length = 0, size = 0;
    char *answer = NULL;
    CURL *curl = NULL;

    if (argc != 5) {
        fail("reading the arguments");
    }
    if (pcloud_init() != 0 || !g_file_get_contents(argv[1], &cib, &length, NULL)) {
        fail("initialisation");
    }
    if (pcloud_schedule(cib, length, 0, &answer, &size) != 0) {
        fail("scheduling");
    }
    pcloud_free(answer);
    g_free(cib);
    xsltInit();
    curl_global_init(CURL_GLOBAL_ALL);
    curl = curl_easy_init();
    if (curl == NULL || libssh2_init(0) != 0) {
        fail("library initialisation");
    }
    for (int i = 0; i < SESSIONS; i++) {
        sessions[i] = open_session(atoi(argv[2]), argv[3], argv[4]);
    }
    loop = qb_loop_create();
    keep_alive(NULL);
    puts("ready");
    fflush(stdout);
    qb_loop_run(loop);
    return 0;
}
