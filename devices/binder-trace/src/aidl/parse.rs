//! From the text of an `.aidl` file to declarations with full names.

use std::collections::{BTreeMap, BTreeSet};

use super::lexer::{Lexer, Token};
use super::{AidlError, Declaration, Definition, Direction, Field, Interface, Method, Type};

/// Types nest no deeper than this.
const MAX_DEPTH: usize = 32;

/// The largest offset that a method may have (`= N`).
const MAX_OFFSET: u32 = 16_777_214;

/// Types that need no declaration.
const BUILT_IN: [&str; 17] = [
    "boolean",
    "byte",
    "char",
    "int",
    "long",
    "float",
    "double",
    "String",
    "IBinder",
    "List",
    "Map",
    "CharSequence",
    "FileDescriptor",
    "ParcelFileDescriptor",
    "ParcelableHolder",
    "void",
    "T",
];

/// Reads one file. `file` is its name, for errors. The text may have several packages one after the
/// other, as our own tables do.
pub fn parse(file: &str, text: &str) -> Result<Vec<Declaration>, AidlError> {
    let lexer = Lexer::new(file, text);
    let mut parser = Parser {
        lexer,
        token: Token::End,
        start: 0,
        package: String::new(),
        imports: BTreeMap::new(),
        outer: Vec::new(),
        backing: None,
        declarations: Vec::new(),
    };
    parser.advance()?;
    parser.file()?;
    Ok(parser.declarations)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token,
    start: usize,
    package: String,
    imports: BTreeMap<String, String>,
    /// Names of the declarations that we are in.
    outer: Vec<String>,
    /// Of an `@Backing(type="int")` that was read last.
    backing: Option<String>,
    declarations: Vec<Declaration>,
}

/// Annotations that matter.
#[derive(Clone, Copy, Default)]
struct Annotations {
    nullable: bool,
    no_status: bool,
}

type Parsed<T> = Result<T, AidlError>;

impl Parser<'_> {
    fn file(&mut self) -> Parsed<()> {
        while self.token != Token::End {
            if self.takes_word("package")? {
                self.package = self.name()?;
                self.imports.clear();
                self.expect(';')?;
            } else if self.takes_word("import")? {
                let name = self.name()?;
                self.expect(';')?;
                let last = name.rsplit('.').next().unwrap_or_default().to_owned();
                self.imports.insert(last, name);
            } else {
                let annotations = self.annotations()?;
                if !self.declaration(annotations)? {
                    return Err(self.expected("interface, parcelable, enum or union"));
                }
            }
        }
        let mut declared: BTreeSet<String> = BTreeSet::new();
        declared.extend(self.declarations.iter().map(|declaration| declaration.name.clone()));
        // Names of this file that are used before they are declared.
        for declaration in &mut self.declarations {
            let scope = declaration.name.clone();
            each_type(&mut declaration.definition, &mut |ty| settle(ty, &scope, &declared));
        }
        Ok(())
    }

    /// One declaration, if here is one.
    fn declaration(&mut self, annotations: Annotations) -> Parsed<bool> {
        let Token::Word(word) = &self.token else { return Ok(false) };
        match word.as_str() {
            "oneway" => {
                // Before an interface it holds for all its methods; the wire tells it of every call.
                let (token, _) = self.peek()?;
                if token != Token::Word("interface".to_owned()) {
                    return Ok(false);
                }
                self.advance()?;
                self.interface(annotations)?;
            }
            "interface" => self.interface(annotations)?,
            "parcelable" => self.parcelable()?,
            "enum" => self.enumeration()?,
            "union" => {
                self.advance()?;
                let name = self.name()?;
                self.type_parameters()?;
                let fields = self.fields(&name)?;
                self.declare(&name, Definition::Union(fields));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn interface(&mut self, annotations: Annotations) -> Parsed<()> {
        self.advance()?;
        let name = self.name()?;
        if self.takes(';')? {
            return Ok(());
        }
        self.expect('{')?;
        self.enter(&name)?;
        let mut methods: Vec<Method> = Vec::new();
        while !self.takes('}')? {
            let of_member = self.annotations()?;
            if self.takes_word("const")? {
                self.skip_to_semicolon()?;
                continue;
            }
            if self.declaration(of_member)? {
                continue;
            }
            self.takes_word("oneway")?;
            let method = self.method(of_member, methods.len() as u32)?;
            methods.push(method);
        }
        self.outer.pop();
        self.declare(&name, Definition::Interface(Interface { methods, no_status: annotations.no_status }));
        Ok(())
    }

    fn method(&mut self, annotations: Annotations, index: u32) -> Parsed<Method> {
        let ty = self.ty(annotations, 0)?;
        let name = self.name()?;
        self.expect('(')?;
        let mut arguments = Vec::new();
        while !self.takes(')')? {
            let before = self.annotations()?;
            let direction = match &self.token {
                Token::Word(word) if word == "in" => Some(Direction::In),
                Token::Word(word) if word == "out" => Some(Direction::Out),
                Token::Word(word) if word == "inout" => Some(Direction::InOut),
                _ => None,
            };
            if direction.is_some() {
                self.advance()?;
            }
            let after = self.annotations()?;
            let annotations = Annotations { nullable: before.nullable || after.nullable, ..before };
            let ty = self.ty(annotations, 0)?;
            let name = self.name()?;
            arguments.push(Field { name, ty, direction: direction.unwrap_or_default() });
            if !self.takes(',')? && self.token != Token::Punct(')') {
                return Err(self.expected("',' or ')'"));
            }
        }
        let mut offset = index;
        if self.takes('=')? {
            offset = self.number()?;
            if offset > MAX_OFFSET {
                return Err(self.lexer.error(self.start, format!("no method can have the number {offset}")));
            }
        }
        self.expect(';')?;
        let returns = (ty.name != "void").then_some(ty);
        Ok(Method { name, code: 1 + offset, returns, arguments })
    }

    fn parcelable(&mut self) -> Parsed<()> {
        self.advance()?;
        let name = self.name()?;
        self.type_parameters()?;
        // cpp_header "x.h" and the like.
        while matches!(&self.token, Token::Word(_) | Token::Quoted) {
            self.advance()?;
        }
        if self.takes(';')? {
            self.declare(&name, Definition::Unstructured);
            return Ok(());
        }
        let fields = self.fields(&name)?;
        self.declare(&name, Definition::Parcelable(fields));
        Ok(())
    }

    /// The fields of a parcelable or union, from `{` to `}`.
    fn fields(&mut self, name: &str) -> Parsed<Vec<Field>> {
        self.expect('{')?;
        self.enter(name)?;
        let mut fields = Vec::new();
        while !self.takes('}')? {
            let annotations = self.annotations()?;
            if self.takes_word("const")? {
                self.skip_to_semicolon()?;
            } else if !self.declaration(annotations)? {
                let ty = self.ty(annotations, 0)?;
                let name = self.name()?;
                self.skip_to_semicolon()?;
                fields.push(Field { name, ty, direction: Direction::In });
            }
        }
        self.outer.pop();
        Ok(fields)
    }

    fn enumeration(&mut self) -> Parsed<()> {
        // @Backing stands before the word `enum`; its argument was noted there.
        self.advance()?;
        let name = self.name()?;
        let backing = self.backing.take().unwrap_or_else(|| "byte".to_owned());
        self.expect('{')?;
        let mut constants = BTreeMap::new();
        let mut next = Some(0i64);
        while !self.takes('}')? {
            self.annotations()?;
            let constant = self.name()?;
            if self.takes('=')? {
                next = self.plain_value()?;
            }
            if let Some(value) = next {
                constants.entry(value).or_insert(constant);
            }
            next = next.and_then(|value| value.checked_add(1));
            if !self.takes(',')? && self.token != Token::Punct('}') {
                return Err(self.expected("',' or '}'"));
            }
        }
        let backing = Type { name: backing, ..Type::default() };
        self.declare(&name, Definition::Enum { backing, constants });
        Ok(())
    }

    /// The value of a constant if it is one number; expressions are skipped.
    fn plain_value(&mut self) -> Parsed<Option<i64>> {
        let negative = self.takes('-')?;
        let mut value = match &self.token {
            Token::Number(number) => integer(number).map(|value| if negative { -value } else { value }),
            _ => None,
        };
        let mut words = 0;
        let mut depth = 0;
        loop {
            match &self.token {
                Token::Punct('(') => depth += 1,
                Token::Punct(')') => depth -= 1,
                Token::Punct(',' | '}') if depth == 0 => break,
                Token::End => return Err(self.expected("'}'")),
                _ => {}
            }
            words += 1;
            self.advance()?;
        }
        if words != 1 {
            value = None;
        }
        Ok(value)
    }

    fn ty(&mut self, annotations: Annotations, depth: usize) -> Parsed<Type> {
        if depth > MAX_DEPTH {
            return Err(self.lexer.error(self.start, "types are nested too deep"));
        }
        let name = self.name()?;
        let mut arguments = Vec::new();
        if self.takes('<')? {
            loop {
                let inner = self.annotations()?;
                arguments.push(self.ty(inner, depth + 1)?);
                if self.takes('>')? {
                    break;
                }
                self.expect(',')?;
            }
        }
        let mut arrays = 0;
        loop {
            // Annotations may stand before the brackets.
            self.annotations()?;
            if !self.takes('[')? {
                break;
            }
            // A fixed size is on the wire as any other.
            while !self.takes(']')? {
                if matches!(self.token, Token::End | Token::Punct(';')) {
                    return Err(self.expected("']'"));
                }
                self.advance()?;
            }
            arrays += 1;
        }
        let name = self.qualify(name);
        Ok(Type { name, arguments, arrays, nullable: annotations.nullable })
    }

    /// The full name of a type, as far as imports tell; names of this file are settled at its end.
    fn qualify(&self, name: String) -> String {
        if BUILT_IN.contains(&name.as_str()) {
            return name;
        }
        let (first, rest) = name.split_at(name.find('.').unwrap_or(name.len()));
        match self.imports.get(first) {
            Some(import) => format!("{import}{rest}"),
            // A dotted name that begins with a small letter is a full one.
            None if !rest.is_empty() && first.starts_with(|c: char| c.is_ascii_lowercase()) => name,
            None if self.package.is_empty() => name,
            None => format!("{}.{name}", self.package),
        }
    }

    fn annotations(&mut self) -> Parsed<Annotations> {
        let mut found = Annotations::default();
        while self.takes('@')? {
            let name = self.name()?;
            match name.as_str() {
                "nullable" => found.nullable = true,
                "NoStatus" => found.no_status = true,
                _ => {}
            }
            if self.takes('(')? {
                let mut depth = 1;
                let mut is_type = false;
                while depth > 0 {
                    match &self.token {
                        Token::Punct('(') => depth += 1,
                        Token::Punct(')') => depth -= 1,
                        Token::Word(word) => is_type = word == "type",
                        Token::Quoted if is_type && name == "Backing" => {
                            let quoted = self.lexer.quoted_text(self.start);
                            self.backing = Some(quoted);
                        }
                        Token::End => return Err(self.expected("')'")),
                        _ => {}
                    }
                    self.advance()?;
                }
            }
        }
        Ok(found)
    }

    fn type_parameters(&mut self) -> Parsed<()> {
        if self.takes('<')? {
            while !self.takes('>')? {
                if self.token == Token::End {
                    return Err(self.expected("'>'"));
                }
                self.advance()?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, name: &str) -> Parsed<()> {
        if self.outer.len() >= MAX_DEPTH {
            return Err(self.lexer.error(self.start, "declarations are nested too deep"));
        }
        self.outer.push(name.to_owned());
        Ok(())
    }

    fn declare(&mut self, name: &str, definition: Definition) {
        let package = Some(self.package.as_str()).filter(|package| !package.is_empty());
        let parts: Vec<&str> =
            package.into_iter().chain(self.outer.iter().map(String::as_str)).chain([name]).collect();
        self.declarations.push(Declaration { name: parts.join("."), definition });
    }

    fn number(&mut self) -> Parsed<u32> {
        let value = match &self.token {
            Token::Number(number) => integer(number).and_then(|value| u32::try_from(value).ok()),
            _ => None,
        };
        let value = value.ok_or_else(|| self.expected("a number"))?;
        self.advance()?;
        Ok(value)
    }

    fn name(&mut self) -> Parsed<String> {
        match &mut self.token {
            Token::Word(word) => {
                let word = std::mem::take(word);
                self.advance()?;
                Ok(word)
            }
            _ => Err(self.expected("a name")),
        }
    }

    fn takes_word(&mut self, word: &str) -> Parsed<bool> {
        let is = matches!(&self.token, Token::Word(found) if found == word);
        if is {
            self.advance()?;
        }
        Ok(is)
    }

    fn takes(&mut self, punct: char) -> Parsed<bool> {
        let is = self.token == Token::Punct(punct);
        if is {
            self.advance()?;
        }
        Ok(is)
    }

    fn expect(&mut self, punct: char) -> Parsed<()> {
        if self.takes(punct)? { Ok(()) } else { Err(self.expected(&format!("'{punct}'"))) }
    }

    fn skip_to_semicolon(&mut self) -> Parsed<()> {
        while !self.takes(';')? {
            if self.token == Token::End {
                return Err(self.expected("';'"));
            }
            self.advance()?;
        }
        Ok(())
    }

    fn advance(&mut self) -> Parsed<()> {
        (self.token, self.start) = self.lexer.next()?;
        Ok(())
    }

    /// The word after this one.
    fn peek(&mut self) -> Parsed<(Token, usize)> {
        self.lexer.peek()
    }

    fn expected(&self, what: &str) -> AidlError {
        let found = match &self.token {
            Token::Word(word) => format!("'{word}'"),
            Token::Number(number) => number.clone(),
            Token::Quoted => "a text".to_owned(),
            Token::Punct(punct) => format!("'{punct}'"),
            Token::End => "the end of the file".to_owned(),
        };
        self.lexer.error(self.start, format!("here belongs {what}, not {found}"))
    }
}

/// A number as AIDL writes it: decimal or hexadecimal, with a suffix for its width.
fn integer(text: &str) -> Option<i64> {
    let text = text.replace('_', "");
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => i64::from_str_radix(hex.trim_end_matches(['L', 'l', 'u']), 16).ok(),
        None => {
            let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            matches!(&text[digits..], "" | "L" | "l" | "u8" | "u32" | "u64")
                .then(|| text[..digits].parse().ok())?
        }
    }
}

/// Calls `f` for every type that a definition uses.
fn each_type(definition: &mut Definition, f: &mut impl FnMut(&mut Type)) {
    fn walk(ty: &mut Type, f: &mut impl FnMut(&mut Type)) {
        f(ty);
        ty.arguments.iter_mut().for_each(|argument| walk(argument, f));
    }
    match definition {
        Definition::Interface(interface) => {
            for method in &mut interface.methods {
                method.returns.iter_mut().for_each(|ty| walk(ty, f));
                method.arguments.iter_mut().for_each(|field| walk(&mut field.ty, f));
            }
        }
        Definition::Parcelable(fields) | Definition::Union(fields) => {
            fields.iter_mut().for_each(|field| walk(&mut field.ty, f));
        }
        Definition::Unstructured | Definition::Enum { .. } => {}
    }
}

/// Finds a name that was taken for one of the package among the declarations of the file: the
/// innermost scope that has it wins.
fn settle(ty: &mut Type, scope: &str, declared: &BTreeSet<String>) {
    if BUILT_IN.contains(&ty.name.as_str()) || declared.contains(&ty.name) {
        return;
    }
    let last = ty.name.rsplit('.').next().unwrap_or_default().to_owned();
    let mut scope = scope;
    loop {
        let candidate = format!("{scope}.{last}");
        if declared.contains(&candidate) {
            ty.name = candidate;
            return;
        }
        let Some((outer, _)) = scope.rsplit_once('.') else { return };
        scope = outer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn methods(text: &str) -> Vec<(String, u32)> {
        let declarations = parse("test.aidl", text).unwrap();
        let Definition::Interface(interface) = &declarations.last().unwrap().definition else { panic!() };
        interface.methods.iter().map(|method| (method.name.clone(), method.code)).collect()
    }

    #[test]
    fn methods_are_numbered_by_order_or_by_hand() {
        let text = "package a.b;
            /* A comment; with { and \" */
            @VintfStability
            oneway interface IThing {
                const int ONE = 1 + (2 << 3);
                const String S = \"};\";
                void first(); // comment
                @JavaPassthrough(annotation=\"@x(1)\") oneway void second(in @nullable byte[] data, out int[4] more);
            }";
        assert_eq!(methods(text), [("first".into(), 1), ("second".into(), 2)]);
        let text = "interface I { int a() = 10; List<String> b(in Map<String, a.B> m) = 3; }";
        assert_eq!(methods(text), [("a".into(), 11), ("b".into(), 4)]);
    }

    #[test]
    fn names_are_those_of_imports_nested_types_and_the_package() {
        let text = "package a.b;
            import c.Far;
            interface I {
                parcelable Inner { int x = 3; @nullable String s; Kind kind; }
                @Backing(type=\"int\") enum Kind { A, B = 5, C, D = 1 << 4, E }
                void f(in Inner i, in Far f, in Near n, in Far.Deep d, String[] s, IBinder b);
            }";
        let all = parse("test.aidl", text).unwrap();
        let names: Vec<_> = all.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["a.b.I.Inner", "a.b.I.Kind", "a.b.I"]);
        let Definition::Interface(interface) = &all[2].definition else { panic!() };
        let types: Vec<_> =
            interface.methods[0].arguments.iter().map(|field| field.ty.name.as_str()).collect();
        assert_eq!(types, ["a.b.I.Inner", "c.Far", "a.b.Near", "c.Far.Deep", "String", "IBinder"]);
        let Definition::Enum { backing, constants } = &all[1].definition else { panic!() };
        assert_eq!(backing.name, "int");
        assert_eq!(
            constants.iter().map(|(v, n)| (*v, n.as_str())).collect::<Vec<_>>(),
            [(0, "A"), (5, "B"), (6, "C")]
        );
        let Definition::Parcelable(fields) = &all[0].definition else { panic!() };
        assert_eq!(fields[2].ty.name, "a.b.I.Kind");
        assert!(fields[1].ty.nullable);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let error = |text: &str| parse("f.aidl", text).unwrap_err().to_string();
        assert_eq!(error("interface I {\n  int f(;\n}"), "f.aidl:2:9: here belongs a name, not ';'");
        assert_eq!(
            error("class X {}"),
            "f.aidl:1:1: here belongs interface, parcelable, enum or union, not 'class'"
        );
        assert!(error("/* no end").contains("comment does not end"));
        assert!(error("interface I { int f() = 99999999; }").contains("no method can have"));
        assert!(error(&format!("interface I {{ {} x f(); }}", "List<".repeat(100))).contains("nested"));
        assert!(error(&"interface I { ".repeat(100)).contains("nested"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_brings_it_down(text in "[a-zA-Z@(){}<>;,.=\" \\[\\]/*0-9\n]{0,200}") {
            let _ = parse("f.aidl", &text);
        }
    }
}
