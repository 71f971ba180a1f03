/* STUB of nvidia-smi: prints recorded output. See README.md. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define DATA "/usr/share/nvidia-stub/"

static int there(const char *path) {
    struct stat unused;
    return stat(path, &unused) == 0;
}

/* Copies a file to stdout, without its first line when asked; returns the number in that line. */
static int copy(const char *path, int first_is_status) {
    char line[1024];
    int status = 0;
    FILE *file = fopen(path, "r");
    if (file && first_is_status && fgets(line, sizeof line, file))
        sscanf(line, "%d", &status);
    while (file && fgets(line, sizeof line, file))
        fputs(line, stdout);
    if (file)
        fclose(file);
    return status;
}

/* The GPUs whose device files are there, numbered anew, as the real one does when it finds fewer. */
static int list(void) {
    char line[1024], device[64];
    int number = 0, shown = 0;
    FILE *file = fopen(DATA "list", "r");
    for (; file && fgets(line, sizeof line, file); number++) {
        snprintf(device, sizeof device, "/dev/nvidia%d", number);
        if (there(device))
            printf("GPU %d%s", shown++, strchr(line, ':'));
    }
    if (file)
        fclose(file);
    if (!shown)
        puts("No devices were found");
    return shown ? 0 : 6;
}

int main(int argc, char **argv) {
    if (there(DATA "fail"))
        return copy(DATA "fail", 1);
    if (!there("/dev/nvidiactl")) {
        puts("Failed to initialize NVML: Unknown Error");
        return 255;
    }
    if (argc > 1 && strcmp(argv[1], "-L") == 0)
        return list();
    if (argc > 1 && strcmp(argv[1], "--persistence-mode=1") == 0)
        return rename(DATA "persistent.xml", DATA "now.xml") ? 1 : 0;
    return copy(DATA "now.xml", 0);
}
