// The main function of every C++ test: says where things are, unless the
// environment already does, so that a test also runs by hand.
#include <cstdlib>

#include "gmock/gmock.h"

int main(int argc, char** argv) {
  setenv("BITWRIGHT_SOURCE_DIR", BITWRIGHT_TEST_SOURCE_DIR, /*overwrite=*/0);
  setenv("BITWRIGHT_SHARED_DIR", BITWRIGHT_TEST_SOURCE_DIR "/../shared",
         /*overwrite=*/0);
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
