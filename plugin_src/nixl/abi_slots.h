// The functions of NIXL's backend class in the order of its virtual table, as the compiler spells
// them, with @ for the class; the same list as in memkv_nixl/_abi_guard.py.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace memkv::nixl::abi {

inline constexpr std::size_t kTableBytes = 232;  // two words, then the functions
inline constexpr std::array<std::string_view, 27> kSlots = {
    "_ZN@D1Ev",
    "_ZN@D0Ev",
    "_ZNK@14supportsRemoteEv",
    "_ZNK@13supportsLocalEv",
    "_ZNK@13supportsNotifEv",
    "_ZNK@16getSupportedMemsEv",
    "_ZN@11registerMemERK12nixlBlobDescRK10nixl_mem_tRP13nixlBackendMD",
    "_ZN@13deregisterMemEP13nixlBackendMD",
    "_ZN@7connectERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    "_ZN@10disconnectERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    "_ZN@8unloadMDEP13nixlBackendMD",
    "_ZNK@8prepXferERK14nixl_xfer_op_tRK12nixlDescListI12nixlMetaDescES7_RKNSt7__cxx1112b"
    "asic_stringIcSt11char_traitsIcESaIcEEERP15nixlBackendReqHPK23nixlBackendOptionalArgs",
    "_ZNK@8postXferERK14nixl_xfer_op_tRK12nixlDescListI12nixlMetaDescES7_RKNSt7__cxx1112b"
    "asic_stringIcSt11char_traitsIcESaIcEEERP15nixlBackendReqHPK23nixlBackendOptionalArgs",
    "_ZNK@9checkXferEP15nixlBackendReqH",
    "_ZNK@11releaseReqHEP15nixlBackendReqH",
    "_ZNK@11prepMemViewERK12nixlDescListI18nixlRemoteMetaDescERPvPK23nixlBackendOptionalA"
    "rgs",
    "_ZNK@11prepMemViewERK12nixlDescListI12nixlMetaDescERPvPK23nixlBackendOptionalArgs",
    "_ZNK@14releaseMemViewEPv",
    "_ZNK@13getPublicDataEPK13nixlBackendMDRNSt7__cxx1112basic_stringIcSt11char_traitsIcE"
    "SaIcEEE",
    "_ZNK@11getConnInfoERNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    "_ZN@18loadRemoteConnInfoERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEES7_",
    "_ZN@12loadRemoteMDERK12nixlBlobDescRK10nixl_mem_tRKNSt7__cxx1112basic_stringIcSt11ch"
    "ar_traitsIcESaIcEEERP13nixlBackendMD",
    "_ZN@11loadLocalMDEP13nixlBackendMDRS1_",
    "_ZN@9getNotifsERSt6vectorISt4pairINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcE"
    "EES7_ESaIS8_EE",
    "_ZNK@8genNotifERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEES7_",
    "_ZNK@8queryMemERK12nixlDescListI12nixlBlobDescERSt6vectorISt8optionalISt13unordered_"
    "mapINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEESD_St4hashISD_ESt8equal_toIS"
    "D_ESaISt4pairIKSD_SD_EEEESaISN_EE",
    "_ZNK@16estimateXferCostERK14nixl_xfer_op_tRK12nixlDescListI12nixlMetaDescES7_RKNSt7_"
    "_cxx1112basic_stringIcSt11char_traitsIcESaIcEEERKP15nixlBackendReqHRNSt6chrono8durat"
    "ionIlSt5ratioILl1ELl1000000EEEESP_R11nixl_cost_tPK21nixlAgentOptionalArgs",
};
static_assert(kTableBytes == 16 + 8 * kSlots.size());

}  // namespace memkv::nixl::abi
