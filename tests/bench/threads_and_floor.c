/*
 * guest VCPUS BUSY ...  a process with the threads of a QEMU; BUSY is 1 where they wake up at times
 * floor PID...          read what the agent reads of them for each line of input, print the CPU time
 *
 * The floor does no more than read each file and the first number in it.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { FILES = 100000 };

static int busy;

static void *live(void *name)
{
    prctl(PR_SET_NAME, name);
    for (;;)
        if (busy)
            usleep(300000);
        else
            pause();
    return NULL;
}

static int guest(int vcpus)
{
    pthread_t thread;
    static char names[64][16];
    for (int at = 0; at < vcpus && at < 63; at++) {
        snprintf(names[at], sizeof names[at], "CPU %d/KVM", at);
        pthread_create(&thread, NULL, live, names[at]);
    }
    pthread_create(&thread, NULL, live, "IO iothread1");
    puts("ready");
    fflush(stdout);
    prctl(PR_SET_PDEATHSIG, 9);
    live("qemu");
    return 0;
}

static int opened(int *files, int count, const char *path)
{
    int file = count < FILES ? open(path, O_RDONLY) : -1;
    if (file >= 0)
        files[count++] = file;
    return count;
}

static int floor_of(int pids, char **pid)
{
    static int files[FILES];
    static char path[512], line[16], text[16384];
    int count = 0;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int at = 0; at < pids; at++) {
        snprintf(path, sizeof path, "/proc/%s/stat", pid[at]);
        count = opened(files, count, path);
        snprintf(path, sizeof path, "/proc/%s/task", pid[at]);
        DIR *folder = opendir(path);
        for (struct dirent *each; folder && (each = readdir(folder));)
            if (each->d_name[0] != '.') {
                snprintf(path, sizeof path, "/proc/%s/task/%.20s/schedstat", pid[at], each->d_name);
                count = opened(files, count, path);
            }
        if (folder)
            closedir(folder);
    }
    unsigned long long sum = 0;
    while (fgets(line, sizeof line, stdin)) {
        struct timespec from, to;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        for (int at = 0; at < count; at++) {
            ssize_t size = pread(files[at], text, sizeof text - 1, 0);
            if (size > 0) {
                text[size] = 0;
                sum += strtoull(text, NULL, 10);
            }
        }
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        printf("%.1f %d %d\n", (to.tv_sec - from.tv_sec) * 1e6 + (to.tv_nsec - from.tv_nsec) / 1e3,
               count, sum == 1);
        fflush(stdout);
    }
    return 0;
}

int main(int count, char **arguments)
{
    if (count > 3 && strcmp(arguments[1], "guest") == 0) {
        busy = atoi(arguments[3]);
        return guest(atoi(arguments[2]));
    }
    return count > 1 ? floor_of(count - 2, arguments + 2) : 1;
}
