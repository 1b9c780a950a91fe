#include "echo.h"
#include <stdio.h>

int answer(const char *request, char *out, size_t room)
{
    int n = snprintf(out, room, "you said: %s\n", request);
    return n < 0 || (size_t)n >= room ? -1 : n;
}
