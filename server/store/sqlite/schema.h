// The tables of the SQLite job store, and their version.
#ifndef BITWRIGHT_SERVER_STORE_SQLITE_SCHEMA_H_
#define BITWRIGHT_SERVER_STORE_SQLITE_SCHEMA_H_

#include "absl/status/status.h"
#include "server/store/sqlite/database.h"

namespace bitwright {

// Makes the tables in an empty database. Otherwise FAILED_PRECONDITION unless
// it is a Bitwright job store of this version, and DATA_LOSS if it is corrupt.
absl::Status PrepareSchema(Database* database);

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_STORE_SQLITE_SCHEMA_H_
