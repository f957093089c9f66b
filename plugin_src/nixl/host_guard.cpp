#include "nixl/host_guard.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "nixl/abi_slots.h"

namespace memkv::nixl {
namespace {

constexpr std::string_view kBase = "_ZTV17nixlBackendEngine";
// POSIX is in every build, the others stand in for it.
constexpr std::array<std::string_view, 5> kPlugins = {"POSIX", "OBJ", "UCX", "GDS", "GDS_MT"};
constexpr std::size_t kFileBytesMax = std::size_t{256} << 20;
constexpr std::uint64_t kWord = 8;
#if defined(__x86_64__)
constexpr std::uint16_t kMachine = EM_X86_64;
constexpr std::uint32_t kBySymbol = R_X86_64_64;
constexpr std::uint32_t kByAddress = R_X86_64_RELATIVE;
#else
constexpr std::uint16_t kMachine = EM_AARCH64;
constexpr std::uint32_t kBySymbol = R_AARCH64_ABS64;
constexpr std::uint32_t kByAddress = R_AARCH64_RELATIVE;
#endif

// What an ELF file says of its symbols, and which functions its relocations put into a table.
// A file that is cut short or makes no sense has less to say; it is never read past its end.
class Image {
 public:
  struct Table {
    std::uint64_t address = 0;
    std::uint64_t bytes = 0;
  };

  explicit Image(std::vector<char> data) : data_(std::move(data)) {
    const auto head = at<Elf64_Ehdr>(0);
    if (!head || std::memcmp(head->e_ident, ELFMAG, SELFMAG) != 0 ||
        head->e_ident[EI_CLASS] != ELFCLASS64 || head->e_ident[EI_DATA] != ELFDATA2LSB ||
        head->e_machine != kMachine) {
      return;
    }
    for (unsigned i = 0; i < head->e_shnum; ++i) {
      const auto section = at<Elf64_Shdr>(head->e_shoff + std::uint64_t{i} * sizeof(Elf64_Shdr));
      if (section) sections_.push_back(*section);
    }
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type == SHT_DYNSYM || section.sh_type == SHT_SYMTAB) read_symbols(section);
    }
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type == SHT_RELA) read_relocations(section);
    }
  }

  [[nodiscard]] std::optional<Table> base() const {
    const auto found = tables_.find(std::string(kBase));
    return found != tables_.end() ? std::optional(found->second) : std::nullopt;
  }
  // The smallest table of a class that is a backend: it adds the fewest functions of its own.
  [[nodiscard]] std::optional<Table> backend() const {
    std::optional<Table> smallest;
    for (const auto& [name, table] : tables_) {
      if (name == kBase || table.bytes == 0) continue;
      if (!smallest || table.bytes < smallest->bytes) smallest = table;
    }
    return smallest;
  }
  // What the function may be called that a table has at this address.
  [[nodiscard]] std::set<std::string> names_at(std::uint64_t address) const {
    const auto direct = put_names_.find(address);
    if (direct != put_names_.end()) return {direct->second};
    const auto place = put_places_.find(address);
    if (place == put_places_.end()) return {};
    const auto names = functions_.find(place->second);
    return names != functions_.end() ? names->second : std::set<std::string>();
  }

 private:
  template <typename T>
  [[nodiscard]] std::optional<T> at(std::uint64_t offset) const {
    if (offset > data_.size() || data_.size() - offset < sizeof(T)) return std::nullopt;
    T out;
    std::memcpy(&out, data_.data() + offset, sizeof(T));
    return out;
  }

  [[nodiscard]] std::string name_of(const Elf64_Shdr& symbols, const Elf64_Sym& symbol) const {
    if (symbols.sh_link >= sections_.size()) return {};
    const std::uint64_t begin = sections_[symbols.sh_link].sh_offset + symbol.st_name;
    if (begin >= data_.size()) return {};
    const auto* const first = data_.data() + begin;
    return {first, std::find(first, data_.data() + data_.size(), '\0')};
  }

  void read_symbols(const Elf64_Shdr& section) {
    for (std::uint64_t i = 0; i < section.sh_size / sizeof(Elf64_Sym); ++i) {
      const auto symbol = at<Elf64_Sym>(section.sh_offset + i * sizeof(Elf64_Sym));
      if (!symbol) return;
      if (symbol->st_value == 0) continue;
      std::string name = name_of(section, *symbol);
      if (name == kBase || (name.starts_with("_ZTV") && name.ends_with("Engine") &&
                            name.find("nixl") != std::string::npos)) {
        tables_[name] = {.address = symbol->st_value, .bytes = symbol->st_size};
      }
      if (name.starts_with("_ZN")) functions_[symbol->st_value].insert(std::move(name));
    }
  }

  void read_relocations(const Elf64_Shdr& section) {
    if (section.sh_link >= sections_.size()) return;
    const Elf64_Shdr& symbols = sections_[section.sh_link];
    for (std::uint64_t i = 0; i < section.sh_size / sizeof(Elf64_Rela); ++i) {
      const auto put = at<Elf64_Rela>(section.sh_offset + i * sizeof(Elf64_Rela));
      if (!put) return;
      if (ELF64_R_TYPE(put->r_info) == kByAddress) {
        put_places_[put->r_offset] = static_cast<std::uint64_t>(put->r_addend);
      } else if (ELF64_R_TYPE(put->r_info) == kBySymbol && put->r_addend == 0) {
        const auto symbol =
            at<Elf64_Sym>(symbols.sh_offset + ELF64_R_SYM(put->r_info) * sizeof(Elf64_Sym));
        if (symbol) put_names_[put->r_offset] = name_of(symbols, *symbol);
      }
    }
  }

  std::vector<char> data_;
  std::vector<Elf64_Shdr> sections_;
  std::map<std::string, Table> tables_;
  std::map<std::uint64_t, std::set<std::string>> functions_;  // by their address
  std::map<std::uint64_t, std::string> put_names_;            // by the place that is filled
  std::map<std::uint64_t, std::uint64_t> put_places_;
};

// `_ZNK15nixlPosixEngine9checkXferE…` as `_ZNK@9checkXferE…`.
std::string without_class(const std::string& name) {
  const std::size_t digits = name.starts_with("_ZNK") ? 4 : 3;
  const std::size_t begin = name.find_first_not_of("0123456789", digits);
  if (begin == std::string::npos || begin == digits || begin - digits > 3) return name;
  const std::size_t length = std::stoul(name.substr(digits, begin - digits));
  if (length > name.size() - begin) return name;
  const std::string_view of = std::string_view(name).substr(begin, length);
  if (!of.starts_with("nixl") || !of.ends_with("Engine")) return name;
  return name.substr(0, digits) + "@" + name.substr(begin + length);
}

Result<void> refuse(const std::string& path, const std::string& why) {
  return fail(Code::unsupported,
              "this NIXL has a binary interface that MEMKV is not built for: " + why + " (" + path +
                  "). Install NIXL 1.0 to 1.5, or a memkv-nixl that knows this NIXL");
}

// The libnixl.so of this process; empty where there is none.
std::string loaded_library() {
  std::string path;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* out) {
        const std::string_view name = info->dlpi_name != nullptr ? info->dlpi_name : "";
        const std::size_t slash = name.rfind('/');
        const std::string_view file = slash == std::string_view::npos ? "" : name.substr(slash + 1);
        if (!file.starts_with("libnixl.so")) return 0;
        *static_cast<std::string*>(out) = name;
        return 1;
      },
      &path);
  return path;
}

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

std::string own_folder() {
  Dl_info info;
  const bool known = dladdr(reinterpret_cast<const void*>(&check_host_file), &info) != 0;
  return folder_of(known && info.dli_fname != nullptr ? info.dli_fname : "");
}

}  // namespace

Result<void> check_host_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail(Code::not_found, "there is no " + path);
  std::vector<char> data;
  file.seekg(0, std::ios::end);
  const auto bytes = static_cast<std::streamoff>(file.tellg());
  if (bytes > 0 && static_cast<std::size_t>(bytes) <= kFileBytesMax) {
    data.resize(static_cast<std::size_t>(bytes));
    file.seekg(0);
    file.read(data.data(), bytes);
    data.resize(static_cast<std::size_t>(file.gcount()));
  }
  const Image image(std::move(data));
  const auto base = image.base();
  const auto table = image.backend();
  if (!base || !table) {
    return fail(Code::not_found, path + " has no " + std::string(kBase) + " with a backend's");
  }
  for (std::size_t slot = 0; slot < abi::kSlots.size(); ++slot) {
    const std::uint64_t place = 2 * kWord + slot * kWord;
    const auto names =
        place < table->bytes ? image.names_at(table->address + place) : std::set<std::string>();
    const bool right = std::ranges::any_of(names, [slot](const std::string& name) {
      return without_class(name) == abi::kSlots[slot];
    });
    if (right) continue;
    const std::string found = names.empty() ? "nothing" : without_class(*names.begin());
    return refuse(path, "slot " + std::to_string(slot) + " of its table is " + found + ", not " +
                            std::string(abi::kSlots[slot]));
  }
  if (base->bytes != abi::kTableBytes) {
    return refuse(path, "its table has " + std::to_string(base->bytes) + " bytes, not " +
                            std::to_string(abi::kTableBytes));
  }
  return {};
}

Result<void> check_host(const Environment& environment) {
  if (environment(kGuardVariable) == "off") return {};
  std::vector<std::string> files;
  const std::string library = loaded_library();
  std::vector<std::string> folders;
  if (!library.empty()) {
    folders = {folder_of(library) + "/plugins", folder_of(folder_of(library)) + "/plugins"};
  }
  folders.push_back(own_folder());
  for (const std::string& folder : folders) {
    for (const std::string_view name : kPlugins) {
      files.push_back(folder + "/libplugin_" + std::string(name) + ".so");
    }
  }
  if (!library.empty()) files.push_back(library);
  for (const std::string& file : files) {
    const Result<void> checked = check_host_file(file);
    if (checked || checked.error().code == Code::unsupported) return checked;
  }
  return fail(Code::unsupported,
              "cannot tell whether this NIXL fits: none of its own plugins is in " + folders[0] +
                  ". memkv-nixl is built for NIXL 1.0 to 1.5; if this is one of them, set " +
                  kGuardVariable + "=off");
}

}  // namespace memkv::nixl
