#include "client/cli/cli.h"

int main(int argc, char** argv) { return bitwright::RunCli(argc, argv); }
