#include "echo.h"
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int self_test(void)
{
    char out[64];
    if (answer("hello", out, sizeof out) != 16 || answer("hello", out, 4) != -1)
        return 1;
    fputs(out[0] ? "self test passed\n" : "", stdout);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--self-test") == 0)
        return self_test();
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(8080) };
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16)) {
        perror("c-server");
        return 1;
    }
    for (;;) {
        char in[256], out[512];
        int client = accept(listener, NULL, NULL);
        ssize_t n = client < 0 ? -1 : read(client, in, sizeof in - 1);
        if (n > 0) {
            in[n] = 0;
            int length = answer(in, out, sizeof out);
            if (length > 0 && write(client, out, (size_t)length) < 0)
                perror("c-server: write");
        }
        if (client >= 0)
            close(client);
    }
}
