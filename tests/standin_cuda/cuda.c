/* A stand-in for libcuda.so.1 with the driver's six functions that move a program into main memory, for the tests of
 * parking's logic, races and faults. It moves nothing: how far each process is, is a file beside the library, and the
 * stand-in for NVML shows nothing of a process that is in main memory. What the real driver does is tests/gpu's to say.
 *
 * The file `cuda.state` says what there is, and what happens, a line each:
 *
 *   uses PID                  the driver runs in that process; 0: in all
 *   code CALL PID CODE        the call fails with that code
 *   hang CALL PID             it does not come back
 *   slow CALL PID MS          it takes so long
 *   kill CALL PID WHO WHEN    SIGKILL, `before` or `after` the call's work, once: to the `caller`, its `parent`, or the
 *                             `target` of the call
 *   touch CALL PID PATH       the file is made before the call
 *   wait CALL PID PATH        until there is such a file
 *
 * CALL: state, lock, checkpoint, restore, unlock, or "any". PID: a process or 0 for any. What was called is in `calls`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { RUNNING, LOCKED, CHECKPOINTED, FAILED };
enum { OK = 0, INVALID = 1, ILLEGAL_STATE = 401 };

static char directory[4096];

static void place(char *path, const char *format, int pid) {
    int at = snprintf(path, 4200, "%s/", directory);
    snprintf(path + at, 64, format, pid);
}

__attribute__((constructor)) static void loaded(void) {
    Dl_info self;
    dladdr((void *)loaded, &self);
    snprintf(directory, sizeof directory, "%s", self.dli_fname);
    char *slash = strrchr(directory, '/');
    if (slash) *slash = 0;
}

static int state_of(int pid) {
    char path[4300];
    int state = RUNNING;
    place(path, "state.%d", pid);
    FILE *file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "%d", &state) != 1) state = RUNNING;
        fclose(file);
    }
    return state;
}

static void become(int pid, int state) {
    char path[4300], new[4310];
    place(path, "state.%d", pid);
    snprintf(new, sizeof new, "%s.new", path);
    FILE *file = fopen(new, "w");
    fprintf(file, "%d\n", state);
    fclose(file);
    rename(new, path);
    place(path, "parked.%d", pid);
    if (state == CHECKPOINTED) {
        close(open(path, O_WRONLY | O_CREAT, 0644));
    } else {
        unlink(path);
    }
}

static void note(const char *call, int pid) {
    char path[4300], line[64];
    place(path, "calls", 0);
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644), length = snprintf(line, sizeof line, "%s %d\n", call, pid);
    if (write(file, line, (size_t)length) != length) abort();
    close(file);
}

static void strike(const char *who, int pid) {
    kill(!strcmp(who, "caller") ? getpid() : !strcmp(who, "parent") ? getppid() : pid, SIGKILL);
    struct timespec moment = {0, 200000000}; /* the others are struck by then */
    if (strcmp(who, "target")) nanosleep(&moment, NULL);
}

/* Once: whoever makes the file first. */
static int first(int line, int pid) {
    char path[4300];
    int at = snprintf(path, sizeof path, "%s/struck.%d", directory, line);
    (void)at, (void)pid;
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (file >= 0) close(file);
    return file >= 0;
}

/* What the script says of this call: its code, 0 where none. With `after`, only who is struck then. */
static int script(const char *call, int pid, int after, int *uses) {
    char path[4300], line[512];
    int code = 0, number = 0;
    place(path, "cuda.state", 0);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        char name[32] = "", who[32] = "", when[256] = "";
        int whom = 0, value = 0;
        number++;
        if (sscanf(line, "uses %d", &whom) == 1 && (whom == 0 || whom == pid)) *uses = 1;
        int fits = 0;
#define FITS (fits = (!strcmp(name, call) || !strcmp(name, "any")) && (whom == 0 || whom == pid))
        if (!after && sscanf(line, "code %31s %d %d", name, &whom, &value) == 3 && FITS) code = value;
        if (!after && sscanf(line, "hang %31s %d", name, &whom) == 2 && FITS) for (;;) pause();
        if (!after && sscanf(line, "slow %31s %d %d", name, &whom, &value) == 3 && FITS) usleep((useconds_t)value * 1000);
        if (!after && sscanf(line, "touch %31s %d %255s", name, &whom, when) == 3 && FITS)
            close(open(when, O_WRONLY | O_CREAT, 0644));
        if (!after && sscanf(line, "wait %31s %d %255s", name, &whom, when) == 3 && FITS)
            while (access(when, F_OK)) usleep(10000);
        if (sscanf(line, "kill %31s %d %31s %31s", name, &whom, who, when) == 4 && FITS &&
            !strcmp(when, after ? "after" : "before") && first(number, pid))
            strike(who, pid);
        (void)fits;
    }
    fclose(file);
    return code;
}

static int step(const char *call, int pid, int from, int to) {
    int uses = 0, code = script(call, pid, 0, &uses);
    note(call, pid);
    if (!uses || kill(pid, 0)) return INVALID;
    if (code) return code;
    if (state_of(pid) != from) return ILLEGAL_STATE;
    become(pid, to);
    script(call, pid, 1, &uses);
    return OK;
}

int cuInit(unsigned flags) { return (int)flags; }
int cuCheckpointProcessLock(int pid, void *arguments) { return (void)arguments, step("lock", pid, RUNNING, LOCKED); }
int cuCheckpointProcessCheckpoint(int pid, void *arguments) {
    return (void)arguments, step("checkpoint", pid, LOCKED, CHECKPOINTED);
}
int cuCheckpointProcessRestore(int pid, void *arguments) {
    return (void)arguments, step("restore", pid, CHECKPOINTED, LOCKED);
}
int cuCheckpointProcessUnlock(int pid, void *arguments) { return (void)arguments, step("unlock", pid, LOCKED, RUNNING); }
int cuCheckpointProcessGetState(int pid, int *state) {
    int uses = 0, code = script("state", pid, 0, &uses);
    *state = state_of(pid);
    return code ? code : uses ? OK : INVALID;
}
int cuCheckpointProcessGetRestoreThreadId(int pid, int *thread) {
    int uses = 0;
    script("find", pid, 0, &uses);
    *thread = uses ? pid : 0;
    return uses ? OK : INVALID;
}
