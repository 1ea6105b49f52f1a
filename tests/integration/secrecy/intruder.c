/* An intruder inside the process, for the test of its confinement: preloaded, it does on every thread what an attacker who runs
 * his own code there would try first, and writes down what the kernel says. It calls the kernel alone, since a signal may come at
 * any moment. Compiled and preloaded by the test; nothing of it is in Sidekey. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int report = -1;
static const char *own, *secret;
static int backend, other;

static int opened(const char *path, int flags) {
    int file = open(path, flags);
    if (file < 0) return errno;
    close(file);
    return 0;
}

/* `use` is bind or connect. A connection that begins counts. */
static int reached(int (*use)(int, const struct sockaddr *, socklen_t), int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int stream = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int result = use(stream, (struct sockaddr *)&to, sizeof to) == 0 ? 0 : errno;
    close(stream);
    return result == EINPROGRESS ? 0 : result;
}

static int ran(const char *path) {
    long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    int status = 0;
    if (child < 0) return errno;
    if (child == 0) {
        char *const arguments[] = {(char *)path, NULL}, *const none[] = {NULL};
        execve(path, arguments, none);
        syscall(SYS_exit_group, errno);
    }
    while (waitpid((pid_t)child, &status, 0) < 0 && errno == EINTR) {
    }
    return WEXITSTATUS(status);
}

/* On one thread. */
static void try_everything(int signal) {
    int before = errno;
    char line[512], name[32] = "";
    (void)signal;
    prctl(PR_GET_NAME, name);
    int length = snprintf(line, sizeof line,
        "%ld passwd=%d secret=%d own=%d change_own=%d backend=%d other=%d listen=%d run=%d name=%s\n",
        syscall(SYS_gettid), opened("/etc/passwd", O_RDONLY), opened(secret, O_RDONLY), opened(own, O_RDONLY),
        opened(own, O_WRONLY), reached(connect, backend), reached(connect, other), reached(bind, 0), ran("/bin/true"), name);
    if (write(report, line, length) != length) abort();
    errno = before;
}

/* On all of them. */
static void tell_threads(int signal) {
    int before = errno, tasks = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char entries[16384];
    long length;
    (void)signal;
    while ((length = syscall(SYS_getdents64, tasks, entries, sizeof entries)) > 0)
        for (long at = 0; at < length; at += *(unsigned short *)(entries + at + 16)) {
            long thread = atol(entries + at + 19);
            if (thread > 0) syscall(SYS_tgkill, getpid(), thread, SIGUSR2);
        }
    close(tasks);
    errno = before;
}

__attribute__((constructor)) static void enter(void) {
    struct sigaction all = {.sa_handler = tell_threads, .sa_flags = SA_RESTART}, one = {.sa_handler = try_everything, .sa_flags = SA_RESTART};
    const char *path = getenv("INTRUDER_REPORT");
    if (path == NULL) return;
    report = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    own = getenv("INTRUDER_OWN");
    secret = getenv("INTRUDER_SECRET");
    backend = atoi(getenv("INTRUDER_BACKEND"));
    other = atoi(getenv("INTRUDER_OTHER"));
    sigaction(SIGUSR1, &all, NULL);
    sigaction(SIGUSR2, &one, NULL);
}
