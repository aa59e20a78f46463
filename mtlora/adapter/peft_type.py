"""The member that MTLoRA needs in PEFT's enumeration of methods."""

from peft.utils import PeftType


def add_peft_type(name: str) -> PeftType:
    """Return the ``PeftType`` member called ``name``, creating it if PEFT does not have it.

    PEFT looks methods up by this enumeration and has no hook for methods of other packages. An ``Enum`` with members
    cannot be subclassed, so the member is entered into the tables that ``enum`` itself fills when it builds a class.
    """
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        setattr(PeftType, name, member)
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
    return PeftType(name)


MTLORA = add_peft_type("MTLORA")
